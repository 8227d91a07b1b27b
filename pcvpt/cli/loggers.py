"""Loggers of a run: where each writes, and how it goes on when the run is resumed."""

import os
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from pcvpt.errors import UsageError
from pcvpt.runs.folder import ENVIRONMENT, read_json, title_of

_ANY = "runs"  # save_dir in the shipped base config, where TensorBoardLogger must have one
_IN_FOLDER = (TensorBoardLogger, CSVLogger)  # what they write belongs into the run folder
# Of a TensorBoardLogger, with Lightning's defaults: a graph needs an example input of the module,
# and the table of runs is written by PromptInspector.
_WITHOUT_EFFECT = {"log_graph": False, "default_hp_metric": True}
_OF_WANDB = {"name": "WANDB_NAME", "save_dir": "WANDB_DIR", "version": "WANDB_RUN_ID"}


def loggers_of(options: Any) -> list[Namespace]:
    """Return copies of the loggers in ``options``; one for TensorBoard for true, as Lightning."""
    made: Any = Namespace  # whose constructor has no annotations
    given = options.trainer.logger
    if given is None or given is True:
        path = f"{TensorBoardLogger.__module__}.{TensorBoardLogger.__name__}"
        return [made(class_path=path, init_args=made(save_dir=_ANY))]
    given = given if isinstance(given, list) else [given] if given else []
    return [made(**{"init_args": made(), **vars(logger.clone())}) for logger in given]


def check_names(command: str, options: Any) -> None:
    """Refuse names of folders that ``--output_dir`` and ``--name`` give.

    TensorBoard and CSV tables write into the run folder. What other loggers are given is kept.
    """
    given = {"default_root_dir": options.trainer.default_root_dir} if command == "fit" else {}
    for logger in loggers_of(options):
        if issubclass(resolve_name(logger.class_path), _IN_FOLDER):
            own = {"save_dir", "name", "version"} - _unset(logger, options)
            values = {f"logger.{key}": logger.init_args.get(key) for key in own}
            given |= {key: value for key, value in values.items() if value != options.name}
            for key, default in _WITHOUT_EFFECT.items():
                if (value := logger.init_args.get(key, default)) != default:
                    raise UsageError(f"trainer.logger.{key}={value} has no effect; leave it out")
    for key, value in given.items():
        if value is not None:
            raise UsageError(
                f"trainer.{key}={value}: the run folder is {options.output_dir}/"
                f"{options.name or 'run'}/version_N, whatever the logger; leave it out, and choose "
                "the folder by --output_dir and --name"
            )


def place(options: Any, run: Path, purge_step: int | None = None) -> list[Namespace]:
    """Return the loggers in ``options``, told what the user did not tell them.

    A run in folder ``run`` that is resumed logs again from ``purge_step``; None for a new run.
    """
    known, loggers = _versions(run), loggers_of(options)
    for number, logger in enumerate(loggers):
        kind, unset = resolve_name(logger.class_path), _unset(logger, options)
        version = known.get((number, kind.__name__))
        told = {
            "save_dir": logger.init_args.get("dir") or str(run),
            **dict.fromkeys(("name", "run_name"), title_of(run)),
            **({} if version is None else dict.fromkeys(("version", "run_id"), version)),
        }
        if issubclass(kind, TensorBoardLogger):
            told = {"save_dir": str(run.parent), "name": "", "version": run.name}
            if purge_step is not None:  # what was logged after the checkpoint is logged again
                logger.dict_kwargs = {**(logger.get("dict_kwargs") or {}), "purge_step": purge_step}
        elif issubclass(kind, CSVLogger):  # each start has a table; Lightning would remove it
            told = {"save_dir": str(run), "name": "csv", "version": None}
        elif issubclass(kind, WandbLogger):
            told |= {k: os.environ[name] for k, name in _OF_WANDB.items() if name in os.environ}
            told["resume"] = "allow"  # Lightning's default, which jsonargparse replaces by null
        elif issubclass(kind, MLFlowLogger) and {"tracking_uri", "save_dir"} <= unset:
            # One for all runs, so that they are compared.
            store = Path(options.output_dir).expanduser().absolute()
            told["tracking_uri"] = f"sqlite:///{store / 'mlflow.db'}"
            told["artifact_location"] = str(store / "mlflow_artifacts")
        for key in told if issubclass(kind, _IN_FOLDER) else told.keys() & unset:
            logger.init_args[key] = told[key]
    return loggers


def _unset(logger: Namespace, options: Any) -> set[str]:
    """Return which arguments of ``logger`` the user has left as they are."""
    init, parameters = logger.init_args, signature(resolve_name(logger.class_path)).parameters
    defaults = {key: parameters[key].default if key in parameters else None for key in vars(init)}
    unset = {key for key, default in defaults.items() if init[key] in (None, default)}
    return unset | ({"save_dir"} if init.get("save_dir") in (_ANY, options.output_dir) else set())


def _versions(run: Path) -> dict[tuple[int, str], str]:
    """Return, by position and class, the name that each logger of ``run`` has given it."""
    file = run / ENVIRONMENT
    starts = read_json(file)["starts"] if file.is_file() else []
    loggers = [pair for start in starts for pair in enumerate(start.get("loggers", []))]
    return {(number, kind): version for number, (kind, version) in loggers if version}

"""The ``pcvpt`` command: fit, validate, test and predict, configured by YAML."""

import json
import logging
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from typing_extensions import override

from pcvpt.callbacks import PredictionWriter, PromptCondensation, PromptFreezer
from pcvpt.cli import cost, data
from pcvpt.cli.allocator import keep_freed_memory
from pcvpt.cli.analyze import main as analyze
from pcvpt.cli.config_errors import in_short, parse
from pcvpt.cli.config_files import CONFIGS, expand
from pcvpt.cli.failures import describe_failure
from pcvpt.cli.resume import find_resumed
from pcvpt.data import ImageDataModule
from pcvpt.errors import UsageError, causes
from pcvpt.runs.atomic import write_json
from pcvpt.runs.disk_space import check_output
from pcvpt.runs.folder import (
    CONFIG,
    default_checkpoint,
    file_of_test,
    find_run,
    is_finished,
    read_checkpoint,
    tests_of,
)
from pcvpt.training.module import PromptTuner
from pcvpt.training.preflight import CHECKS, complaint_of_lightning

_HELP = """usage: pcvpt {fit,validate,test,predict,analyze,cost,data} ...

  pcvpt fit --config demo.yaml            train, condense, fine-tune; one run folder per start
  pcvpt fit --config a.yaml --config b.yaml --condense.keep 0.1
  pcvpt fit --config a.yaml --resume      go on with the newest run of that name, if it was cut off
  pcvpt test RUN                          a finished run: its folder, or the folder of its runs
  pcvpt predict RUN --data.predict_images FOLDER --predictions out.csv
  pcvpt analyze {curve,scores,spectrum,layers,attention,cost} RUN    tables and figures of a run
  pcvpt cost --config cars.yaml --condense.keep 0.3    what that computes and trains, per image
  pcvpt data {list,get,verify,convert,show} ...    the 24 tasks' images

A config is a file, or the bare name of a shipped one. `pcvpt fit --config NAME --print_config`
shows the merged whole, `pcvpt fit --help` every option."""


# What may be said on one line; whatever is not goes on as it is.
_SAID = (ValueError, ArgumentError, RuntimeError, OSError, EOFError, MisconfigurationException)


_COMMANDS = {
    "analyze": analyze.main,
    "cost": cost.main,
    "data": data.main,
}


class SaveRunConfig(SaveConfigCallback):
    """Writes the whole configuration into the run folder of a fit."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and not self.config.resume:  # a run that goes on has its own
            super().setup(trainer, pl_module, stage)


class Command(LightningCLI):
    """LightningCLI with a section ``condense``, and the head sized from the data."""

    @override
    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        everything = LightningCLI.subcommands()
        return {name: everything[name] for name in ("fit", "validate", "test", "predict")}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(PromptCondensation, "condense")
        parser.add_argument(
            "--output_dir", type=str, default="runs", help="where run folders are made"
        )
        parser.add_argument(
            "--name", type=str | None, default=None, help="of the run; the configs' names if null"
        )
        parser.add_argument(
            "--predictions", type=str, default="predictions.csv", help="CSV of `predict`"
        )
        parser.add_argument(
            "--resume", action="store_true", help="go on with the newest run, start one if none"
        )
        parser.add_argument(
            "--retest", action="store_true", help="test a checkpoint that was tested before"
        )
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parse(parser, self._parser(args[0]), args)
        checkpoint = self.config[self.config.subcommand].ckpt_path
        if checkpoint is not None:
            read_checkpoint(Path(checkpoint))

    @override
    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        for check in CHECKS:
            check(str(self.subcommand), config)
        if self.subcommand != "fit" and config.ckpt_path is None:
            raise UsageError(
                f"`pcvpt {self.subcommand}` needs a trained model: give the folder of a run, "
                "or --ckpt_path"
            )
        if self.subcommand == "predict":
            if Path(config.predictions).exists():
                raise UsageError(
                    f"{config.predictions} exists; remove it, or name another file by --predictions"
                )
            writer = PredictionWriter(config.predictions)
            self.trainer_defaults["callbacks"] = [PromptFreezer(), writer]
        if self.subcommand == "test" and not config.retest:
            self._refuse_second_test(Path(config.ckpt_path))
        if self.subcommand == "fit" and config.resume:
            self._resume(config)
        logger = config.trainer.logger
        if hasattr(logger, "init_args"):
            logger.init_args.save_dir = str(Path(config.output_dir).expanduser())
            logger.init_args.name = config.name or "run"
        if self.subcommand == "fit":
            own = hasattr(logger, "init_args")
            there = Path(config.trainer.default_root_dir or ".") / CONFIG
            if not own and there.exists():
                raise UsageError(
                    f"{there} is of an earlier run, and without a logger there is no folder for "
                    "each; name another by --trainer.default_root_dir, or leave trainer.logger out"
                )
            check_output(_home(config) if own else there.parent)

    def _resume(self, config: Any) -> None:
        """Set ``config`` to go on with the newest run, or end at once if that is finished."""
        if config.ckpt_path is not None:
            raise UsageError("--resume finds the checkpoint by itself; leave out --ckpt_path")
        logger = config.trainer.logger
        if not hasattr(logger, "init_args"):
            raise UsageError(
                f"trainer.logger={logger}: --resume needs a logger that makes run folders; leave "
                "trainer.logger as it is"
            )
        folder = _home(config)
        whole = yaml.safe_load(self._parser("fit").dump(config, skip_unset=False))
        run, checkpoint = find_resumed(folder, whole)
        if run is not None and checkpoint is None:
            rank_zero_info(f"{run} is finished; nothing to go on with")
            raise SystemExit(0)
        config.resume = run is not None
        if run is None or checkpoint is None:
            rank_zero_info(f"{folder}: no run to go on with; starting one")
            return
        rank_zero_info(f"Going on from {checkpoint}")
        config.ckpt_path = str(checkpoint)
        logger.init_args.version = run.name
        table = run / "metrics.csv"
        if logger.class_path.endswith("CSVLogger") and _is_first() and table.exists():
            # Lightning's would remove it.
            number = len(list(run.glob("metrics-before-*.csv"))) + 1
            table.rename(run / f"metrics-before-{number}.csv")
        if logger.class_path.endswith("TensorBoardLogger"):
            # What was logged after the checkpoint is logged again.
            logger.dict_kwargs = {"purge_step": read_checkpoint(checkpoint)["global_step"]}

    @staticmethod
    def _refuse_second_test(checkpoint: Path) -> None:
        earlier = tests_of(checkpoint)
        if earlier:
            accuracy = json.loads(earlier[-1].read_text()).get("test/accuracy", float("nan"))
            raise UsageError(
                f"{checkpoint} was tested already: {100 * accuracy:.2f} % ({earlier[-1]}). A test "
                "that is repeated until it suits is none; --retest tests once more and keeps both"
            )

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        condense: PromptCondensation = self._get(self.config_init, "condense")
        trainer = self._get(self.config_init, "trainer")
        if trainer.enable_progress_bar is False:
            bars = [c for c in trainer.callbacks or [] if isinstance(c, ProgressBar)]
            trainer.callbacks = [c for c in trainer.callbacks or [] if c not in bars]
        try:
            return super().instantiate_trainer(max_epochs=condense.total_epochs, **kwargs)
        except TypeError as error:  # such as devices: many
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from error

    def after_test(self) -> None:
        """Write the test's figures beside the checkpoint's folder."""
        checkpoint = Path(self.config[self.subcommand].ckpt_path)
        if self.trainer.global_rank == 0:
            figures = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
            data = cast(ImageDataModule, self.datamodule).describe()
            number = len(tests_of(checkpoint)) + 1
            results = {"checkpoint": checkpoint.name, "test": number, **figures, "data": data}
            write_json(file_of_test(checkpoint, number), results)

    def after_predict(self) -> None:
        """Say where the predictions are."""
        print(f"Predictions: {self.config[self.subcommand].predictions}")


def arguments_of_run(name: str, options: list[str]) -> list[str]:
    """Return the arguments that load the run in folder ``name``, and ``options`` after them.

    Unless the options name a checkpoint, it is that of :func:`default_checkpoint`.

    Raises:
        UsageError: when there is no such run, or no one checkpoint to take.
    """
    run = find_run(name)
    arguments = ["--config", str(run / "config.yaml"), "--trainer.logger=false"]
    if not any(option.split("=")[0] == "--ckpt_path" for option in options):
        checkpoint = default_checkpoint(run)
        print(f"Using {checkpoint}" + " of a run that is not finished" * (not is_finished(run)))
        arguments += ["--ckpt_path", str(checkpoint)]
    return arguments + options


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input ends with one clear error on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # by design
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")  # the module does it
    keep_freed_memory()
    try:
        own = _COMMANDS.get(arguments[0])
        if own is not None:
            raise SystemExit(own(arguments[1:]))
        _run(arguments[0], arguments[1:])
    except _SAID as error:
        message = _usage_message(error) or describe_failure(error)
        if message is None:
            raise
        print(f"pcvpt: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _usage_message(error: BaseException) -> str | None:
    """Return what to tell the user of ``error``; None when it is no fault of theirs."""
    for cause in causes(error):  # jsonargparse wraps what a constructor raises
        if isinstance(cause, UsageError):
            return str(cause)
    if isinstance(error, ArgumentError) or str(error).startswith("Does not validate"):
        return in_short(str(error))
    return complaint_of_lightning(error)


def _home(config: Any) -> Path:
    """Return the folder of all runs of the name in ``config``."""
    return Path(config.output_dir).expanduser() / (config.name or "run")


def _is_first() -> bool:
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()


def _run(subcommand: str, options: list[str]) -> None:
    if subcommand not in Command.subcommands():
        raise UsageError(
            f"no command {subcommand!r}; choose fit, validate, test, predict, analyze, cost or data"
        )
    if subcommand != "fit" and options and not options[0].startswith("-"):
        options, _ = expand(arguments_of_run(options[0], options[1:]))
    else:
        options, name = expand(options)
        if name is None and not {"-h", "--help"} & set(options):
            shipped = ", ".join(sorted(p.name for p in CONFIGS.rglob("*.yaml") if p.stem != "base"))
            raise UsageError(f"give --config FILE; shipped are {shipped}")
        if name is not None:  # first, so that a config or an option may say another
            options = ["--name", name, *options]
    Command(
        PromptTuner,
        ImageDataModule,
        subclass_mode_data=True,
        save_config_callback=SaveRunConfig,
        auto_configure_optimizers=False,
        parser_kwargs={"exit_on_error": False},
        args=[subcommand, *options],
    )

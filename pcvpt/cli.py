"""The ``pcvpt`` command: fit, validate, test and predict, configured by YAML."""

import json
import logging
import re
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from typing_extensions import override

from pcvpt import cost_command, data_command
from pcvpt.allocator import keep_freed_memory
from pcvpt.callbacks import PredictionWriter, PromptCondensation, PromptFreezer
from pcvpt.callbacks.checkpointing import check_checkpoint
from pcvpt.config import CONFIGS, expand
from pcvpt.data import ImageTask
from pcvpt.errors import UsageError
from pcvpt.module import PromptTuner

_HELP = """usage: pcvpt {fit,validate,test,predict,cost,data} ...

  pcvpt fit --config demo.yaml            train, condense, fine-tune; one run folder per start
  pcvpt fit --config a.yaml --config b.yaml --condense.keep 0.1
  pcvpt test RUN                          a finished run: its folder, or the folder of its runs
  pcvpt predict RUN --data.predict_images FOLDER --predictions out.csv
  pcvpt cost --config cars.yaml --condense.keep 0.3    what that computes and trains, per image
  pcvpt data {list,get,verify,convert,show} ...    the 24 tasks' images

A config is a file, or the bare name of a shipped one. `pcvpt fit --config NAME --print_config`
shows the merged whole, `pcvpt fit --help` every option."""


class SaveRunConfig(SaveConfigCallback):
    """Writes the whole configuration into the run folder of a fit."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
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
        parser.add_argument("--output_dir", default="runs", help="where run folders are made")
        parser.add_argument("--name", default=None, help="of the run; the configs' names if null")
        parser.add_argument("--predictions", default="predictions.csv", help="CSV of `predict`")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)
        checkpoint = self.config[self.config.subcommand].ckpt_path
        if checkpoint is not None:
            check_checkpoint(Path(checkpoint))

    @override
    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.trainer.max_epochs is not None:
            raise UsageError(
                f"trainer.max_epochs={config.trainer.max_epochs}; leave it out: the length of a "
                "run is condense.prompt_epochs + condense.finetune_epochs"
            )
        if config.trainer.max_steps != -1:
            raise UsageError(
                f"trainer.max_steps={config.trainer.max_steps}; leave it out: it would end a run "
                "between its phases"
            )
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
        logger = config.trainer.logger
        if hasattr(logger, "init_args"):
            logger.init_args.save_dir = config.output_dir
            logger.init_args.name = config.name or "run"

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        condense: PromptCondensation = self._get(self.config_init, "condense")
        trainer = self._get(self.config_init, "trainer")
        if trainer.enable_progress_bar is False:
            bars = [c for c in trainer.callbacks or [] if isinstance(c, ProgressBar)]
            trainer.callbacks = [c for c in trainer.callbacks or [] if c not in bars]
        return super().instantiate_trainer(max_epochs=condense.total_epochs, **kwargs)

    def after_test(self) -> None:
        """Write the test's figures beside the checkpoint's folder."""
        checkpoint = Path(self.config[self.subcommand].ckpt_path)
        if self.trainer.global_rank == 0:
            figures = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
            data = cast(ImageTask, self.datamodule).describe()
            results = {"checkpoint": checkpoint.name, **figures, "data": data}
            target = checkpoint.parent.parent / f"test-{checkpoint.stem}.json"
            target.write_text(json.dumps(results, indent=2) + "\n")

    def after_predict(self) -> None:
        """Say where the predictions are."""
        print(f"Predictions: {self.config[self.subcommand].predictions}")


def find_run(name: str) -> Path:
    """Return the run folder meant by ``name``: itself, or the newest run within.

    Raises:
        UsageError: when there is none.
    """
    folder = Path(name).expanduser()
    runs = [
        path.parent
        for path in (folder, *folder.glob("version_*"))
        for path in path.glob("config.yaml")
    ]
    runs = [run for run in runs if any(run.glob("checkpoints/*.ckpt"))] or runs
    if not runs:
        raise UsageError(f"{folder}: no finished run here (no config.yaml); `pcvpt fit` makes one")
    return max(runs, key=lambda run: [int(n) for n in re.findall(r"\d+", run.name)] or [0])


def default_checkpoint(run: Path) -> Path:
    """Return the checkpoint that stands for the run in folder ``run``.

    That is the condensed best, or else the last of fine-tuning, or those of prompt training. Of
    several budgets, it is that of the only one that was fine-tuned.

    Raises:
        UsageError: when there is none, or when several budgets leave a choice.
    """
    found = {path.stem for path in run.glob("checkpoints/*.ckpt")}
    masked = sorted(stem for stem in found if stem.startswith("masked_"))
    # A run resumed amid fine-tuning has no masked ones.
    named = (re.fullmatch(r"masked(_.+)|finetune(_.+)-(?:best|last)", stem) for stem in found)
    budgets = sorted({match[1] or match[2] for match in named if match})

    def of_phase(name: str) -> list[str]:
        return [stem for stem in (f"{name}-best", f"{name}-last") if stem in found][:1]

    finetuned = [stem for budget in ("", *budgets) for stem in of_phase(f"finetune{budget}")]
    choices = finetuned if len(finetuned) == 1 else [*finetuned, *masked, *of_phase("prompt")]
    if not choices:
        raise UsageError(f"{run}: no checkpoint here yet")
    if len(choices) > 1:
        raise UsageError(
            f"{run} has several budgets; choose one by --ckpt_path {run}/checkpoints/NAME.ckpt, "
            f"where NAME is one of {', '.join(choices)}"
        )
    return run / "checkpoints" / f"{choices[0]}.ckpt"


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
        print(f"Using {checkpoint}")
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
    keep_freed_memory()
    try:
        if arguments[0] == "data":
            raise SystemExit(data_command.main(arguments[1:]))
        if arguments[0] == "cost":
            raise SystemExit(cost_command.main(arguments[1:]))
        _run(arguments[0], arguments[1:])
    except (ValueError, ArgumentError) as error:
        message = _usage_message(error)
        if message is None:
            raise
        print(f"pcvpt: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _usage_message(error: BaseException) -> str | None:
    """Return what to tell the user of ``error``; None when it is no fault of theirs."""
    cause: BaseException | None = error
    while cause is not None:  # jsonargparse wraps what a constructor raises
        if isinstance(cause, UsageError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    if not isinstance(error, ArgumentError):
        return None
    noise = ("Does not validate", "Subtypes:", "Errors:", "Given value type:")
    lines = [line.strip(" -") for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith(noise))


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()


def _run(subcommand: str, options: list[str]) -> None:
    if subcommand not in Command.subcommands():
        raise UsageError(
            f"no command {subcommand!r}; choose fit, validate, test, predict, cost or data"
        )
    if subcommand != "fit" and options and not options[0].startswith("-"):
        options, _ = expand(arguments_of_run(options[0], options[1:]))
    else:
        options, name = expand(options)
        if name is None and not {"-h", "--help"} & set(options):
            shipped = ", ".join(sorted(p.name for p in CONFIGS.rglob("*.yaml") if p.stem != "base"))
            raise UsageError(f"give --config FILE; shipped are {shipped}")
        if name is not None and not any(o.split("=")[0] == "--name" for o in options):
            options += ["--name", name]
    Command(
        PromptTuner,
        ImageTask,
        subclass_mode_data=True,
        save_config_callback=SaveRunConfig,
        auto_configure_optimizers=False,
        parser_kwargs={"exit_on_error": False},
        args=[subcommand, *options],
    )

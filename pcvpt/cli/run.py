"""``pcvpt fit``, ``validate``, ``test`` and ``predict``: from options to a run, and the run."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from pcvpt.analysis.stages import wilson
from pcvpt.callbacks import (
    AdapterWriter,
    PhaseCheckpoint,
    PhaseProgressBar,
    PredictionWriter,
    PromptFreezer,
    PromptInspector,
    RunRecord,
    RunSummary,
)
from pcvpt.cli.checks import CHECKS, check_task, folder_of_runs
from pcvpt.cli.config_errors import parse
from pcvpt.cli.config_files import CONFIGS, expand
from pcvpt.cli.loggers import place
from pcvpt.cli.parser import arguments_of, build_parser
from pcvpt.cli.resume import find_resumed
from pcvpt.cli.verbosity import take_verbosity
from pcvpt.data import ImageDataModule
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import write_json, write_text
from pcvpt.runs.folder import (
    CONFIG,
    REPORT,
    default_checkpoint,
    file_of_test,
    find_run,
    is_finished,
    next_run,
    read_checkpoint,
)
from pcvpt.training.checkpoint import saved_classes
from pcvpt.training.evaluation import part_of
from pcvpt.training.module import PromptTuner

# Callbacks of every run, each with the kind of the user's callbacks that take its place.
_OWN: dict[type[Callback], type[Callback]] = {
    PhaseProgressBar: ProgressBar,
    RunRecord: RunRecord,
    PhaseCheckpoint: PhaseCheckpoint,
    PromptInspector: PromptInspector,
    AdapterWriter: AdapterWriter,
    RunSummary: RunSummary,
}


class Run(NamedTuple):
    """What will be run."""

    command: str
    config: Namespace  # all options, as they are saved in the run folder
    folder: Path  # made by a fit unless config.resume; that of the checkpoint for other commands
    loggers: Sequence[Namespace] = ()  # each with its place
    finished: bool = False  # the run to resume, so that there is nothing left to do


class RunTrainer(pl.Trainer):
    """A Trainer whose ``log_dir`` is the run folder, whatever its loggers are."""

    @property
    @override
    def log_dir(self) -> str:
        return str(self.strategy.broadcast(self.default_root_dir))


class Command(LightningCLI):
    """LightningCLI on the shared parser, for a configuration that is complete.

    If ``verbose``, Lightning's table of the model is shown, unless the configuration decides it.
    """

    def __init__(self, run: Run, verbose: bool) -> None:
        self.run, self.verbose = run, verbose
        config, path, writers = run.config, run.config.ckpt_path, list[Callback]()
        if run.command == "predict":
            table = PredictionWriter(config.predictions, config.top, config.probabilities)
            writers = [PromptFreezer(), table]
        given = run.command != "fit" and path  # the data of a fit set the classes
        self.classes = saved_classes(read_checkpoint(Path(path))) if given else None
        super().__init__(
            PromptTuner,
            ImageDataModule,
            None,
            trainer_class=RunTrainer,
            trainer_defaults={"callbacks": writers},
            subclass_mode_data=True,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @override
    def setup_parser(self, *_: Any) -> None:
        self.parser = build_parser(self.run.command, self.classes)

    @override
    def parse_arguments(self, *_: Any) -> None:
        self.config = self.run.config.clone()
        self.config.trainer.logger = self.run.loggers
        if self.run.command == "fit":
            self.config.trainer.default_root_dir = str(self.run.folder)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        options, condense = self.config_init.trainer, self.config_init.condense
        options.callbacks = callbacks_of(options)
        if options.enable_model_summary is None:
            options.enable_model_summary = self.verbose
        try:
            return super().instantiate_trainer(max_epochs=condense.schedule.total_epochs)
        except (TypeError, RuntimeError) as error:  # such as devices: many, or a callback twice
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from error


def callbacks_of(options: Namespace) -> list[Callback]:
    """Return the callbacks of a Trainer with ``options``: those of every run, and the user's.

    One of the user's takes the place of that of its kind, and ``enable_progress_bar`` and
    ``enable_checkpointing`` leave out what they say.
    """
    given = options.callbacks if isinstance(options.callbacks, list) else [options.callbacks]
    shown, saved = options.enable_progress_bar, options.enable_checkpointing
    off = *([ProgressBar] if shown is False else []), *([PhaseCheckpoint] if saved is False else [])
    given = [c for c in given if c and not isinstance(c, off)]
    taken = {place for place in _OWN.values() if any(isinstance(c, place) for c in given)}
    own = [kind() for kind, place in _OWN.items() if place not in {*off, *taken}]
    return [*own, *given]


def main(command: str, arguments: Sequence[str]) -> None:
    """Run ``pcvpt COMMAND`` with ``arguments``.

    Raises:
        UsageError: Option, file or checkpoint that is refused.
    """
    arguments, verbose = take_verbosity(arguments)
    options = parse(command, _with_files(command, arguments))
    for check in CHECKS:
        check(command, options)
    run = resolve(command, options)
    if run.finished:
        rank_zero_info(f"{run.folder} is finished; there is nothing to resume")
    else:
        check_task(command, run.config)  # a finished run needs no images
        _start(run, verbose)


def resolve(command: str, options: Namespace) -> Run:
    """Return what ``pcvpt COMMAND`` will run; ``options`` stay as they are.

    Raises:
        UsageError: Run that was begun with another configuration, or whose checkpoint is damaged.
    """
    config = options.clone()
    if config.seed_everything is True:
        # Lightning's own choice where no seed is given; a process that it starts finds it there.
        config.seed_everything = int(os.environ.get("PL_GLOBAL_SEED", 0))
    folder, resumed, checkpoint = folder_of_runs(config), None, None
    if command == "fit" and config.resume:
        whole = build_parser().dump(options, skip_unset=False)
        resumed, checkpoint = find_resumed(folder, whole)
        config.resume = resumed is not None
    if resumed is None:
        run = next_run(folder) if command == "fit" else Path(config.ckpt_path).parent.parent
        return Run(command, config, run, place(config, run))
    if checkpoint is None:
        return Run(command, config, resumed, finished=True)
    config.ckpt_path = str(checkpoint)
    step = read_checkpoint(checkpoint)["global_step"]
    return Run(command, config, resumed, place(config, resumed, step))


def _with_files(command: str, arguments: list[str]) -> list[str]:
    """Return ``arguments`` with the files of their configs, or those of a run."""
    if command != "fit" and arguments and not arguments[0].startswith("-"):
        return expand(_arguments_of_run(arguments[0], arguments[1:]))[0]
    options, name = expand(arguments)
    if name is not None:  # first, so that a config or an option may give another
        return ["--name", name, *options]
    if not {"-h", "--help"} & set(options):
        shipped = ", ".join(sorted(p.name for p in CONFIGS.rglob("*.yaml") if p.stem != "base"))
        raise UsageError(f"give --config FILE; shipped are {shipped}")
    return options


def _arguments_of_run(name: str, options: list[str]) -> list[str]:
    """Return the arguments that load the run in folder ``name``, and ``options`` after them."""
    run = find_run(name)
    arguments = ["--config", str(run / "config.yaml"), "--trainer.logger=false"]
    if not any(option.split("=")[0] == "--ckpt_path" for option in options):
        checkpoint = default_checkpoint(run)
        print(f"Using {checkpoint}" + " of a run that is not finished" * (not is_finished(run)))
        arguments += ["--ckpt_path", str(checkpoint)]
    return arguments + options


def _start(run: Run, verbose: bool) -> None:
    config = run.config
    if config.resume:
        rank_zero_info(f"Resuming {config.ckpt_path}")
    new = run.command == "fit" and not config.resume and not config.trainer.fast_dev_run
    if new:
        run.folder.parent.mkdir(parents=True, exist_ok=True)  # MLflow writes beside it at once
    torch.set_float32_matmul_precision(config.matmul_precision)
    torch.backends.cudnn.allow_tf32 = config.matmul_precision != "highest"  # of convolutions
    made = Command(run, verbose)
    made.model.classes = made.classes  # so that other data are refused before they are decoded
    first = made.trainer.is_global_zero
    if new and first:
        _make_folder(run, made.parser)
    evaluates = run.command in ("test", "validate")
    table = {"verbose": verbose} if evaluates else {}  # that of Lightning
    method = getattr(made.trainer, run.command)
    try:
        method(made.model, datamodule=made.datamodule, **arguments_of(run.command, config), **table)
    except UsageError:
        if new and first and [file.name for file in run.folder.iterdir()] == [CONFIG]:
            shutil.rmtree(run.folder)  # of a run that never began
        raise
    if evaluates and first:
        _conclude(run, made.trainer, made.datamodule)


def _conclude(run: Run, trainer: pl.Trainer, data: ImageDataModule) -> None:
    """Tell the result, and record a test of all images; tell of any other that it is partial."""
    split = "test" if run.command == "test" else "val"
    batches = getattr(trainer, f"num_{split}_batches")
    part = part_of(batches, getattr(trainer, f"{split}_dataloaders"))
    print(_told(trainer, split, 0 if part else len(getattr(data.splits, split))))
    if part:
        print(
            f"A trial, which is not recorded: only {part} of {split} were read; "
            f"--trainer.limit_{split}_batches=1.0 reads all"
        )
    elif split == "test" and not run.config.trainer.fast_dev_run:
        _write_test(Path(run.config.ckpt_path), trainer, data)


def _told(trainer: pl.Trainer, split: str, images: int) -> str:
    """Return the result on ``split`` as a line, with Wilson's interval if ``images`` are known."""
    accuracy, per_class, loss = (
        float(trainer.callback_metrics[f"{split}/{name}"])
        for name in ("accuracy", "accuracy_per_class", "loss")
    )
    of = f" (95 % interval {wilson(100 * accuracy, images)}, {images:,} images)" * bool(images)
    means = f"mean over classes {100 * per_class:.2f} %, loss {loss:.3f}"
    return f"{split} accuracy {100 * accuracy:.2f} %{of}, {means}"


def _write_test(checkpoint: Path, trainer: pl.Trainer, data: ImageDataModule) -> None:
    """Write the figures of a test beside the folder of its checkpoint."""
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    number = 1
    while file_of_test(checkpoint, number).exists():
        number += 1
    results = {"checkpoint": checkpoint.name, "test": number, **figures, "data": data.describe()}
    write_json(file_of_test(checkpoint, number), results)
    run = checkpoint.parent.parent
    if (run / REPORT).is_file():  # which a test adds a column to
        from pcvpt.analysis.report_page import write_report  # needs matplotlib

        write_report(run / REPORT, [run])


def _make_folder(run: Run, parser: LightningArgumentParser) -> None:
    """Make the run folder, with the configuration in it."""
    try:
        run.folder.mkdir()
    except FileExistsError as error:
        raise UsageError(f"{run.folder}: another start has just made it; start again") from error
    write_text(run.folder / CONFIG, parser.dump(run.config, skip_unset=False))

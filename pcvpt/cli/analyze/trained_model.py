"""What an analysis looks at: a trained model, and the images of its task."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcvpt.adapters import load_adapter
from pcvpt.cli.config_files import expand
from pcvpt.cli.configured import configured
from pcvpt.data import ImageDataModule, InputSpec
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer
from pcvpt.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    default_checkpoint,
    find_run,
    read_checkpoint,
    title_of,
)

ALL_PROMPTS = "prompt-last"
"""Name of the checkpoint of a run's end of prompt training, with all of its prompts."""


@dataclass
class Subject:
    """A trained model, and the images of its task.

    Attributes:
        path: the run's folder, or the file of the adapter.
        name: for titles and legends.
        checkpoint: that was loaded; None for an adapter.
        model: in evaluation mode.
        task: where its images come from; None for an adapter that was given without any.
        config: the run's whole configuration, empty for an adapter.
    """

    path: Path
    name: str
    checkpoint: Path | None
    model: PromptedTransformer
    task: ImageDataModule | None
    config: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where analyses of it go unless another place is named."""
        is_run = self.checkpoint is not None
        return self.path / "analysis" if is_run else self.path.with_suffix("")

    @property
    def data(self) -> ImageDataModule:
        """The task.

        Raises:
            UsageError: when there is none.
        """
        if self.task is None:
            raise UsageError(
                f"{self.path}: an adapter has no images; leave it in the folder of its run, or "
                "give the run's config.yaml by --config"
            )
        return self.task

    def require_images(self, split: str) -> None:
        """Raise a UsageError unless there is a task, and it has images in ``split``."""
        if not getattr(self.data.splits, split):
            raise UsageError(f"{self.data.source}: no {split} images; choose another by --split")

    def batches(
        self, split: str, images: int | None = None, device: torch.device | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(images (b, 3, h, w), labels (b,))`` of ``split``, as in evaluation.

        Args:
            split: "train" (in order, not augmented), "val" or "test".
            images: stop after about so many; None for all.
            device: to put them on; that of the model by default.

        Raises:
            UsageError: when the split is empty.
        """
        self.require_images(split)
        data, to = self.data, device or self.model.prompts.device
        loader = {
            "train": data.scoring_dataloader,
            "val": data.val_dataloader,
            "test": data.test_dataloader,
        }[split]()
        count = None if images is None else -(-images // data.batch_size)
        for batch in islice(loader, count):
            x, labels, *_ = data.on_after_batch_transfer(batch, 0)
            yield x.to(to), labels.to(to)


def open_subject(
    path: str | Path, checkpoint: str | None = None, options: Sequence[str] = ()
) -> Subject:
    """Load the run or the adapter at ``path``.

    Args:
        path: the folder of a run, or of runs, of which the newest is taken; or an adapter's file.
        checkpoint: of a run: the file, or its name without ``.ckpt`` in the run's folder. None
            takes the condensed best.
        options: further options of `pcvpt fit`, such as ``--data.root FOLDER``; for an adapter,
            ``--config FILE`` says what its images are.

    Raises:
        UsageError: naming what is missing, damaged or does not fit.
    """
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        return _open_adapter(path, list(options))
    run = find_run(str(path))
    file = default_checkpoint(run) if checkpoint is None else _checkpoint(run, checkpoint)
    loaded = read_checkpoint(file)
    arguments, _ = expand(["--config", str(run / CONFIG), *options])
    config, tuner, data = configured(arguments)
    try:
        tuner.check_checkpoint(loaded)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    tuner.load_state_dict(loaded["state_dict"], strict=False)
    model = tuner.model.eval()
    return Subject(run, title_of(run), file, model, data, config)


def open_with_all_prompts(
    path: str | Path, checkpoint: str | None = None, options: Sequence[str] = ()
) -> Subject:
    """Load as :func:`open_subject`, but of a run take the end of prompt training by default.

    Where the run has none, it is the condensed best after all.
    """
    path = Path(path).expanduser()
    if checkpoint is None and path.suffix != ".safetensors":
        file = find_run(str(path)) / CHECKPOINTS / f"{ALL_PROMPTS}.ckpt"
        checkpoint = ALL_PROMPTS if file.is_file() else None
    return open_subject(path, checkpoint, options)


def one_run(options: argparse.Namespace, name: str) -> str:
    """Return the RUN of ``options``.

    Raises:
        UsageError: when there are several, which the analysis ``name`` does not put together.
    """
    if len(options.runs) > 1:
        raise UsageError(f"{name} takes one RUN, but there are {', '.join(options.runs)}")
    return str(options.runs[0])


@contextmanager
def naming(subject: Subject) -> Iterator[None]:
    """Put the name of ``subject`` in front of a UsageError within this context."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{subject.path}: {error}") from error


def scores_of(subject: Subject) -> Tensor:
    """Return the scores ``(l, p)`` of the last condensation; NaN where there was none.

    They are those of the checkpoint, or, as that of the end of prompt training has none yet, of
    what its run made of it.
    """
    bank = subject.model.prompts
    kept = bank.scores[bank.keep]
    if subject.checkpoint is None or bool(kept.isfinite().all()):
        return bank.scores
    for file in sorted((subject.path / CHECKPOINTS).glob("*.ckpt")):
        if file.stem.startswith(("masked", "finetune")):
            found: Tensor = read_checkpoint(file)["state_dict"]["model.prompts.scores"]
            return found.to(bank.device)
    return bank.scores


def _open_adapter(path: Path, options: list[str]) -> Subject:
    beside = path.parent / CONFIG
    config: dict[str, Any] = {}
    task = None
    pretrained: bool | str = True
    if options or beside.is_file():
        named = any(option.split("=")[0] in ("-c", "--config") for option in options)
        first = [] if named else ["--config", str(beside)]
        arguments, _ = expand([*first, *options])
        config, _, task = configured(arguments)
        pretrained = config["model"]["pretrained"]
    model = load_adapter(path, pretrained)
    if task is not None:
        names = model.adapter.class_names
        if names is not None and tuple(names) != tuple(task.class_names):
            raise UsageError(f"{path}: trained on other classes than those of {task.source}")
        task.input_spec = InputSpec.of(model.pretrained_cfg, model.patch_embed.img_size)
    return Subject(path, path.stem, None, model, task, config)


def _checkpoint(run: Path, name: str) -> Path:
    file = Path(name).expanduser()
    if file.suffix != ".ckpt":
        file = run / CHECKPOINTS / f"{name}.ckpt"
    if not file.is_file():
        there = ", ".join(sorted(f.stem for f in (run / CHECKPOINTS).glob("*.ckpt")))
        raise UsageError(f"{file}: no such checkpoint; {run} has {there}")
    return file

"""Trained models that are analysed, with the images of their task."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import Tensor

from pcvpt.adapters import load_adapter
from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.analysis.attention_spectrum import are_scores
from pcvpt.cli.checks import check_data
from pcvpt.cli.config_errors import parse
from pcvpt.cli.config_files import expand
from pcvpt.cli.parser import build_parser, data_of
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
from pcvpt.training.checkpoint import saved_classes


@dataclass
class TrainedModel:
    """The model of a run or of an adapter, in evaluation mode, with the images of its task.

    An adapter without a configuration has no task. ``path`` is the folder of the run, or the file
    of the adapter; ``name`` is for titles and legends.
    """

    path: Path
    name: str
    model: PromptedTransformer
    task: ImageDataModule | None

    @property
    def folder(self) -> Path:
        """Default folder of its analyses."""
        is_file = self.path.suffix == ".safetensors"
        return self.path.with_suffix("") if is_file else self.path / "analysis"

    @property
    def data(self) -> ImageDataModule:
        """DataModule with its images; raises a UsageError when there is none."""
        if self.task is None:
            raise UsageError(
                f"{self.path}: an adapter has no images; leave it in the folder of its run, or "
                "give the run's config.yaml by --config"
            )
        return self.task

    def require_images(self, split: str) -> None:
        """Raise a UsageError unless there are images in ``split``."""
        if not getattr(self.data.splits, split):
            raise UsageError(f"{self.data.source}: no {split} images; choose another by --split")

    def batches(self, split: str, images: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images ``(b, 3, h, w)`` and labels ``(b,)`` of ``split``, on the model's device.

        Those of "train" are in order, without augmentation. The number of ``images``, by default
        all, is rounded up to whole batches. A UsageError is raised if the split has none.
        """
        self.require_images(split)
        data, device = self.data, self.model.prompts.device
        loader = getattr(data, f"{'scoring' if split == 'train' else split}_dataloader")()
        count = None if images is None else -(-images // data.batch_size)
        for batch in islice(loader, count):
            x, labels, *_ = data.on_after_batch_transfer(batch, 0)
            yield x.to(device), labels.to(device)

    def scores(self) -> Tensor:
        """Return the scores ``(l, p)`` of the last condensation; NaN where there was none.

        The checkpoint at the end of prompt training has no scores yet. They are then read from a
        later checkpoint of the run. Merged prompts have none: those of the bank are of the prompts
        before the merge.
        """
        bank = self.model.prompts
        if bank.log_weight is not None:
            return torch.full_like(bank.scores, float("nan"))
        later = sorted((self.path / CHECKPOINTS).glob("[mf]*.ckpt"))  # masked, finetune
        if are_scores(bank.scores, bank.keep) or not later:
            return bank.scores
        found: Tensor = read_checkpoint(later[0])["state_dict"]["model.prompts.scores"]
        return found.to(bank.device)

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Begin the message of a UsageError within this context with the path."""
        try:
            yield
        except UsageError as error:
            raise UsageError(f"{self.path}: {error}") from error


def open_models(
    options: argparse.Namespace,
    further: Sequence[str],
    *,
    all_prompts: bool = False,
    single: bool = False,
) -> list[TrainedModel]:
    """Open every RUN of ``options`` on their device; ``further`` are options of ``pcvpt fit``.

    The default checkpoint is the best one after condensation, or with ``all_prompts`` the one at
    the end of prompt training, if there is one. A UsageError is raised if a RUN can't be loaded,
    has no prompts, if there is no such device, or if ``single`` and there are several.
    """
    if single and len(options.runs) > 1:
        raise UsageError(f"this analysis takes one RUN, but there are {', '.join(options.runs)}")
    try:
        device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter if torch has no CUDA
        raise UsageError(f"--device {options.device}: no such device here ({error})") from error
    opened = []
    for path in options.runs:
        checkpoint = options.checkpoint
        if checkpoint is None and all_prompts and not path.endswith(".safetensors"):
            file = find_run(path) / CHECKPOINTS / "prompt-last.ckpt"
            checkpoint = str(file) if file.is_file() else None
        trained = open_model(path, checkpoint, further)
        trained.model.to(device)
        with trained.named_in_errors():
            require_prompts(trained.model)
        opened.append(trained)
    return opened


def open_model(
    path: str | Path, checkpoint: str | None = None, options: Sequence[str] = ()
) -> TrainedModel:
    """Load the run in the folder ``path``, or the newest one in it, or the adapter of that file.

    The ``checkpoint`` of a run is its file, or its name without ``.ckpt``; by default the best one
    after condensation. ``options`` are those of `pcvpt fit`, such as ``--data.root FOLDER``. For an
    adapter, ``--config FILE`` describes its images. A UsageError is raised if something is missing,
    damaged, or does not fit.
    """
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        return _open_adapter(path, list(options))
    run = find_run(str(path))
    file = default_checkpoint(run) if checkpoint is None else _checkpoint(run, checkpoint)
    loaded = read_checkpoint(file)
    classes = saved_classes(loaded)
    config = parse("fit", expand(["--config", str(run / CONFIG), *options])[0])
    check_data("fit", config)
    # Callbacks and loggers are not made.
    parts = Namespace(model=config.model, data=config.data)  # type: ignore[no-untyped-call]
    made = build_parser(classes=classes).instantiate(parts)
    tuner, data = made.model, made.data
    data.use_classes(classes)
    data.input_spec = tuner.input_spec
    try:
        tuner.check_checkpoint(loaded)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    tuner.load_state_dict(loaded["state_dict"], strict=False)
    return TrainedModel(run, title_of(run), tuner.model.eval(), data)


def _open_adapter(path: Path, options: list[str]) -> TrainedModel:
    beside, task, pretrained = path.parent / CONFIG, None, True
    if options or beside.is_file():
        named = any(option.split("=")[0] in ("-c", "--config") for option in options)
        first = [] if named else ["--config", str(beside)]
        config = parse("fit", expand([*first, *options])[0])
        check_data("fit", config)
        task = data_of(config.data)
        pretrained = config.model.pretrained
    model = load_adapter(path, pretrained)
    if task is not None:
        names = model.adapter.class_names
        if names is not None and tuple(names) != tuple(task.class_names):
            raise UsageError(f"{path}: trained on other classes than those of {task.source}")
        task.input_spec = InputSpec.of(model.pretrained_cfg, model.patch_embed.img_size)
    return TrainedModel(path, path.stem, model, task)


def _checkpoint(run: Path, name: str) -> Path:
    file = Path(name).expanduser()
    if file.suffix != ".ckpt":
        file = run / CHECKPOINTS / f"{name}.ckpt"
    if not file.is_file():
        found = ", ".join(sorted(f.stem for f in (run / CHECKPOINTS).glob("*.ckpt")))
        raise UsageError(f"{file}: no such checkpoint; {run} has {found}")
    return file

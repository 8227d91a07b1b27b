"""What the package costs around the model: an epoch of ``trainer.fit`` against a bare loop.

    python benchmarks/fit.py [--backbone vit_small_patch16_224] [--images 64] [--batch 16]

``fit`` trains a PromptTuner on a DataModule that keeps its images in memory, with the callbacks
and the logger of the command: metrics, checkpoints, progress bar, TensorBoard. ``bare`` takes as
many steps of the same model and optimizer, and as many evaluations, in a plain loop over batches
that lie ready on the device, normalised. ``epochs`` is the part of ``fit`` between the start of its
first epoch and the end of its last; the rest is paid once for a run. All of it takes turns in one
process.
"""

import argparse
import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import Namespace
from lightning.pytorch.loggers import TensorBoardLogger
from report import hardware, on, options, prepare, ratio, show, spread, told, write
from rich.table import Table
from timing import alternate, seconds
from torch import Tensor

import pcvpt
from pcvpt.cli.run import callbacks_of
from pcvpt.data import ImageDataModule, Item, Splits
from pcvpt.training.recipe import parameter_groups

CLASSES = 10
PRECISION = {"float32": "32-true", "bf16": "bf16-mixed"}


class Noise(ImageDataModule):
    """Images of noise, of the size the backbone takes, decoded and resized into memory once.

    Args:
        train: Number of training images.
        val: Number of validation images.
        size: Height and width of the images.
        options: Further options of ``ImageDataModule``.
    """

    def __init__(self, train: int, val: int, size: tuple[int, int], **options: Any) -> None:
        super().__init__(cache="memory", protocol="vpt", resize="squash", augment=False, **options)
        self.counts, self.size = (train, val), size

    def read_splits(self) -> Splits:
        draw = np.random.default_rng(0)
        train, val = (
            tuple(
                Item(draw.integers(0, 256, (*self.size, 3), dtype=np.uint8), number % CLASSES)
                for number in range(count)
            )
            for count in self.counts
        )
        return Splits(train, val, (), tuple(map(str, range(CLASSES))))


class EpochClock(pl.Callback):
    """Measures from the start of the first epoch to the end of the last."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 0:
            self._finish(trainer)
            self._start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._finish(trainer)
        self.seconds = time.perf_counter() - self._start

    def _finish(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence a fit, including its progress bar."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def default_callbacks() -> list[pl.Callback]:
    """Return the callbacks of every run of the command."""
    options = {"callbacks": [], "enable_progress_bar": None, "enable_checkpointing": None}
    return callbacks_of(Namespace(**options))


def fit(
    module: pcvpt.PromptTuner,
    data: ImageDataModule,
    epochs: int,
    precision: str,
    device: torch.device,
) -> float:
    """Run ``trainer.fit`` and return the seconds between first start and last end of an epoch."""
    clock = EpochClock()
    condense = pcvpt.PromptCondensation(keep=None, prompt_epochs=epochs)
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=epochs,
            callbacks=[clock, condense, *default_callbacks()],
            logger=TensorBoardLogger(folder, name="run"),
            default_root_dir=folder,
            log_every_n_steps=10,
            num_sanity_val_steps=0,  # as the command does
        )
        trainer.fit(module, datamodule=data)
    return clock.seconds


def bare(
    module: pcvpt.PromptTuner,
    train: Sequence[Sequence[Tensor]],
    val: Sequence[Sequence[Tensor]],
    epochs: int,
    precision: Callable[[], Any],
) -> None:
    """Take the steps and the evaluations of :func:`fit`, and do nothing else."""
    model, recipe = module.model, module.recipes[0]
    optimizer = recipe.optimizer(parameter_groups(model, recipe.weight_decay))
    for _ in range(epochs):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            with precision():
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad(), precision():
            for images, _ in val:
                model(images)


def tuner_and_noise(args: argparse.Namespace) -> tuple[pcvpt.PromptTuner, Noise]:
    """Return a model on random weights, and noise of the size it takes."""
    recipe = pcvpt.PhaseRecipe(partial(torch.optim.SGD, momentum=0.9), base_lr=0.1)
    module = pcvpt.PromptTuner(
        CLASSES,
        recipe,
        recipe,
        args.backbone,
        args.prompts,
        pretrained=False,
        image_size=args.image_size,
    )
    size = module.model.patch_embed.img_size
    val = max(1, args.images // 4)
    return module, Noise(args.images, val, size, batch_size=args.batch, num_workers=0)


def compare(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the seconds of each side in each round."""
    module, data = tuner_and_noise(args)
    data.input_spec = module.input_spec
    train, val = (
        [data.on_after_batch_transfer([part.to(device) for part in batch], 0) for batch in loader()]
        for loader in (data.train_dataloader, data.val_dataloader)
    )
    autocast = partial(torch.autocast, device.type, dtype=torch.bfloat16)
    precision = nullcontext if args.precision == "float32" else autocast
    epochs: list[float] = []
    loops: list[float] = []

    def whole() -> None:
        epochs.append(fit(module, data, args.epochs, PRECISION[args.precision], device))

    def loop() -> None:
        module.to(device)  # a fit on a GPU leaves it on the CPU
        loops.append(seconds(lambda: bare(module, train, val, args.epochs, precision), device))

    times = alternate({"fit": whole, "bare": loop}, args.repeats, device)
    times |= {"epochs": epochs[-args.repeats :], "bare": loops[-args.repeats :]}
    return {name: {"seconds": taken} for name, taken in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--backbone", help="timm model. Default: ViT-B/16 on a GPU, ViT-S/16 on a CPU."
    )
    parser.add_argument("--prompts", type=int, default=10, help="Prompts per block.")
    parser.add_argument(
        "--images", type=int, help="Images per epoch. Default: 1600 on a GPU, 64 on a CPU."
    )
    parser.add_argument("--batch", type=int, help="Batch size. Default: 64 on a GPU, 16 on a CPU.")
    parser.add_argument("--epochs", type=int, default=2, help="Epochs of each fit.")
    parser.add_argument("--repeats", type=int, default=5, help="Rounds.")
    parser.add_argument("--precision", choices=PRECISION, default="float32")
    parser.add_argument(
        "--image_size", type=int, help="Image size in pixels. Default: that of the backbone."
    )
    args = parser.parse_args(arguments)
    device = prepare(args)
    gpu = device.type == "cuda"
    args.backbone = args.backbone or f"vit_{'base' if gpu else 'small'}_patch16_224"
    args.images, args.batch = (
        args.images or (1600 if gpu else 64),
        args.batch or (64 if gpu else 16),
    )
    sides = compare(args, device)
    write("fit", device, args, sides=sides)
    title = f"{args.epochs} epochs of {args.images} images, batch {args.batch}, {args.backbone}, "
    table = Table()
    for column in ("side", "s", "over bare"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name, side in sides.items():
        median, *_ = spread(side["seconds"])
        table.add_row(name, f"{median:,.2f}", told(ratio(sides, name, "bare"), digits=3))
    show(title + on(hardware(device)), table)


if __name__ == "__main__":
    main()

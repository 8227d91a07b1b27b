"""Images to look at, read apart from those of training."""

from collections.abc import Sequence
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from pcvpt.data import ImageDataModule
from pcvpt.data.dataset import LabelledImages
from pcvpt.data.tools.contact_sheet import choose
from pcvpt.errors import UsageError
from pcvpt.training.hooks import image_data


class Shown(NamedTuple):
    """Some images of one split.

    Attributes:
        split: its name.
        pixels: ``(b, 3, h, w)``, uint8, on the CPU: what people are shown.
        images: the same as a step gets them, on the device.
        labels: ``(b,)``, on the CPU.
    """

    split: str
    pixels: Tensor
    images: Tensor
    labels: Tensor


def take(trainer: pl.Trainer, splits: Sequence[str], count: int) -> Shown | None:
    """Return up to ``count`` images, evenly from all classes, of the first split that has any.

    They are seen as in evaluation: resized and cut, without augmentation. Without a task of
    ``pcvpt.data``, the first batch of val stands for them, and ``pixels`` is scaled to be seen.
    None when there are none, or, with a warning, when one can't be read.
    """
    data = image_data(trainer)
    with torch.random.fork_rng([]):  # a loader draws a seed when it is iterated
        try:
            if data is not None:
                return _of_task(trainer, data, splits, count)
            return _of_loaders(trainer, count)
        except UsageError as error:  # the run itself may well go on
            rank_zero_warn(f"No images on the board: {error}")
            return None


def _of_task(
    trainer: pl.Trainer, data: ImageDataModule, splits: Sequence[str], count: int
) -> Shown | None:
    split = next((name for name in splits if getattr(data.splits, name)), None)
    if split is None:
        return None
    items = choose(getattr(data.splits, split), count)
    dataset = LabelledImages(items, data.preprocessing)
    pixels, labels = dataset.__getitems__(range(len(items)))
    return Shown(split, pixels, _as_in_a_step(trainer, pixels, labels), labels)


def _of_loaders(trainer: pl.Trainer, count: int) -> Shown | None:
    loaders = trainer.val_dataloaders
    loader = loaders[0] if isinstance(loaders, list) and loaders else loaders
    batch = next(iter(loader or ()), None)
    if batch is None or not len(batch[0]):
        return None
    images, labels = batch[0][:count], batch[1][:count].cpu()
    low, high = images.float().amin(), images.float().amax()
    pixels = ((images.float() - low) / (high - low).clamp(min=1e-6) * 255).byte().cpu()
    return Shown("val", pixels, _as_in_a_step(trainer, images, labels), labels)


def _as_in_a_step(trainer: pl.Trainer, images: Tensor, labels: Tensor) -> Tensor:
    batch = trainer.precision_plugin.convert_input([images, labels])
    moved: Sequence[Tensor] = trainer.strategy.batch_to_device(batch)
    return moved[0]

"""Images on which a model is observed during training, read apart from those of training."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from pcvpt.analysis.forward_pass import Outputs, attention_to_prompts, features_and_logits
from pcvpt.data import ImageDataModule
from pcvpt.data.contact_sheet import choose
from pcvpt.data.dataset import LabelledImages
from pcvpt.errors import UsageError
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.training.callback_protocols import image_data
from pcvpt.training.module import PromptTuner

_MICROBATCH = 32  # images of one forward pass


class ProbeImages(NamedTuple):
    """Some images of one split."""

    split: str
    pixels: Tensor  # to show (b, 3, h, w), uint8, on the CPU
    images: Tensor  # the same as a step gets them, on the device
    labels: Tensor  # (b,), on the CPU


def read_images(trainer: pl.Trainer, splits: Sequence[str], count: int) -> ProbeImages | None:
    """Return up to ``count`` images, evenly from all classes, of the first split that has any.

    They are not augmented. Without an ImageDataModule they are the first batch of val, and
    ``pixels`` is scaled to uint8. None if there are no images, or, with a warning, a broken one.
    """
    data = image_data(trainer)
    with torch.random.fork_rng([]):  # a loader draws a seed when it is iterated
        try:
            if data is not None:
                return _of_data(trainer, data, splits, count)
            return _of_loaders(trainer, count)
        except UsageError as error:  # the run itself can continue
            rank_zero_warn(f"No images on the board: {error}")
            return None


def predict(trainer: pl.Trainer, module: PromptTuner, images: Tensor) -> Outputs:
    """Return features and logits of ``images`` ``(b, 3, h, w)``, float32 on the CPU."""
    with evaluating(module.model), trainer.precision_plugin.forward_context():
        parts = [features_and_logits(module.model, part) for part in images.split(_MICROBATCH)]
    features, logits = (torch.cat(part).float().cpu() for part in zip(*parts, strict=True))
    return Outputs(features, logits)


def attention(trainer: pl.Trainer, module: PromptTuner, probe: ProbeImages) -> Tensor:
    """Return the attention to prompts ``(blocks, p)``, on an image for each hundred of an epoch."""
    count = max(1, min(len(probe.images), images_of_epoch(trainer, module) // 100))
    spread = torch.arange(count) * len(probe.images) // count  # over the classes
    chosen = probe.images[spread.to(probe.images.device)]
    with evaluating(module.model), trainer.precision_plugin.forward_context():
        return attention_to_prompts(module.model, chosen)


def images_of_epoch(trainer: pl.Trainer, module: PromptTuner) -> int:
    """Return the number of training images of an epoch over all devices; 0 if it has no end."""
    batches = trainer.num_training_batches
    if not math.isfinite(batches):
        return 0
    return int(batches) * module.global_batch // trainer.accumulate_grad_batches


def _of_data(
    trainer: pl.Trainer, data: ImageDataModule, splits: Sequence[str], count: int
) -> ProbeImages | None:
    by_name = {"train": data.splits.train, "val": data.splits.val, "test": data.splits.test}
    split = next((name for name in splits if by_name[name]), None)
    if split is None:
        return None
    items = choose(by_name[split], count)
    pixels, labels = LabelledImages(items, data.preprocessing).__getitems__(range(len(items)))
    return ProbeImages(split, pixels, _as_in_a_step(trainer, pixels, labels), labels)


def _of_loaders(trainer: pl.Trainer, count: int) -> ProbeImages | None:
    loaders = trainer.val_dataloaders
    loader = loaders[0] if isinstance(loaders, list) and loaders else loaders
    batch = next(iter(loader or ()), None)
    if batch is None or not len(batch[0]):
        return None
    images, labels = batch[0][:count], batch[1][:count].cpu()
    low, high = images.float().amin(), images.float().amax()
    pixels = ((images.float() - low) / (high - low).clamp(min=1e-6) * 255).byte().cpu()
    return ProbeImages("val", pixels, _as_in_a_step(trainer, images, labels), labels)


def _as_in_a_step(trainer: pl.Trainer, images: Tensor, labels: Tensor) -> Tensor:
    batch = trainer.precision_plugin.convert_input([images, labels])
    moved: Sequence[Tensor] = trainer.strategy.batch_to_device(batch)
    return moved[0]

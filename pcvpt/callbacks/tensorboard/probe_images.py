"""What a model amid a run makes of a few images."""

import math

import lightning.pytorch as pl
import torch
from torch import Tensor

from pcvpt.analysis.forward_pass import Outputs, attention_to_prompts, features_and_logits
from pcvpt.callbacks.tensorboard.images import Shown, take
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.training.module import PromptTuner

_PIECE = 32  # images of one forward pass


class Looks:
    """The same images again and again, so that what is seen of a model can be compared.

    Args:
        images: so many of val, or else of train, at most.
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self._sample: Shown | None = None

    def sample(self, trainer: pl.Trainer) -> Shown | None:
        """Return the images; None when there are none."""
        if self._sample is None:
            self._sample = take(trainer, ("val", "train"), self._images)
        return self._sample

    def attention(self, trainer: pl.Trainer, module: PromptTuner) -> Tensor | None:
        """Return the attention to prompts ``(blocks, p)``; None without images, or prompts.

        Of the images, no more are taken than one for each hundred of an epoch.
        """
        sample = self.sample(trainer)
        if sample is None or not any(module.model.prompts.counts()):
            return None
        count = max(1, min(len(sample.images), images_of_epoch(trainer) // 100))
        spread = torch.arange(count) * len(sample.images) // count  # over the classes
        chosen = sample.images[spread.to(sample.images.device)]
        with evaluating(module.model), trainer.precision_plugin.forward_context():
            return attention_to_prompts(module.model, chosen)


def predict(trainer: pl.Trainer, module: PromptTuner, images: Tensor) -> Outputs:
    """Return features and logits of ``images`` ``(b, 3, h, w)``, float32 on the CPU."""
    with evaluating(module.model), trainer.precision_plugin.forward_context():
        pieces = [features_and_logits(module.model, part) for part in images.split(_PIECE)]
    features, logits = (torch.cat(parts).float().cpu() for parts in zip(*pieces, strict=True))
    return Outputs(features, logits)


def images_of_epoch(trainer: pl.Trainer) -> int:
    """Return the number of images that all devices train on in an epoch; 0 if it has no end."""
    per_device = getattr(trainer.train_dataloader, "batch_size", None) or 1
    batches = trainer.num_training_batches
    return int(batches * per_device * trainer.world_size) if math.isfinite(batches) else 0

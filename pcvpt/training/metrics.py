"""Means over images and over classes that no step has to wait for.

The metrics of torchmetrics select by a boolean index and search for NaN on the host, for which a
GPU has to finish the step. Here all counts stay on the device until the epoch is over.

Axes: b batch, k classes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from pcvpt.data.samplers import IGNORED


class MeanOverImages(Metric):
    """Mean over images of a number that each image has; NaN without images.

    Sums start as the integer 0 and take the type of what is added, so hits are counted exactly.
    """

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "images"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    @override
    def update(self, total: Tensor, images: Tensor) -> None:
        """Add the sum ``total`` over a number of ``images``, both scalars."""
        self.total = self.total + total
        self.images = self.images + images

    @override
    def compute(self) -> Tensor:
        return self.total / self.images


class MeanOverClasses(Metric):
    """Accuracy of each class, averaged over the classes that have images or were predicted."""

    full_state_update = False
    hits: Tensor
    images: Tensor
    guessed: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("hits", "images", "guessed"):
            zeros = torch.zeros(num_classes, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    @override
    def update(self, guesses: Tensor, labels: Tensor) -> None:
        """Add the predicted and the true classes ``(b,)`` of a batch; IGNORED ones are left out."""
        counted = (labels != IGNORED).long()
        classes = labels * counted  # an image that adds nothing adds it to class 0
        self.hits.index_add_(0, classes, (guesses == labels).long())
        self.images.index_add_(0, classes, counted)
        self.guessed.index_add_(0, guesses, counted)

    @override
    def compute(self) -> Tensor:
        seen = (self.images + self.guessed).bool()
        return (self.hits / self.images.clamp(min=1)).sum() / seen.sum()


class Answers(NamedTuple):
    """What a model takes the images of a batch for; each of shape ``(b,)``."""

    labels: Tensor
    guesses: Tensor  # the predicted classes
    certainty: Tensor  # their probabilities


class LastAnswers:
    """The answers of ``model`` to the validation images, batch by batch, in its present state."""

    def __init__(self, model: nn.Module) -> None:
        self.batches: list[Answers] = []
        self._versions = _versions(model)

    def are_of(self, model: nn.Module) -> bool:
        """Return whether ``model`` is the same, and no tensor of it has changed since."""
        return _versions(model) == self._versions


def answers(logits: Tensor, labels: Tensor) -> Answers:
    """Return what logits ``(b, k)`` say of a batch."""
    return Answers(labels, logits.argmax(1), logits.float().softmax(1).amax(1))


def _versions(model: nn.Module) -> dict[Tensor, int]:
    # As keys, tensors are compared by identity.
    return {part: part._version for part in model.state_dict(keep_vars=True).values()}


def split_metrics(num_classes: int) -> nn.ModuleDict:
    """Return the metrics of one split by the names under which they are logged."""
    means = {"loss": MeanOverImages(), "accuracy": MeanOverImages()}
    return nn.ModuleDict({**means, "accuracy_per_class": MeanOverClasses(num_classes)})


def add_batch(metrics: Mapping[str, Any], logits: Tensor, labels: Tensor) -> Tensor:
    """Add logits ``(b, k)`` and labels ``(b,)`` to the metrics of a split; return the mean loss.

    Images with the label IGNORED, which may be all of a batch, are left out.
    """
    counted = (labels != IGNORED).sum()
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    guesses = logits.detach().argmax(1)
    metrics["loss"].update(total.detach(), counted)
    metrics["accuracy"].update((guesses == labels).sum(), counted)
    metrics["accuracy_per_class"].update(guesses, labels)
    return total / counted.clamp(min=1)

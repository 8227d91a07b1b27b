"""Accuracy without the prompts of each block, and with the prompts of one block alone.

Removal of a layer's prompts is a figure of Kim et al., arXiv 2305.17223; keeping those of one
block alone is this project's.

Axes: b images, l layers of the bank (one for each block), p prompts.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.errors import UsageError
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.models.transformer import PromptedTransformer


class Removals(NamedTuple):
    """Accuracies in percent, by the prompts that take part."""

    untouched: float  # with all prompts that the model keeps
    none: float  # without any prompt
    without: list[float]  # without the prompts of one block, for each
    only: list[float]  # with the prompts of one block alone, for each
    kept: list[int]  # number of prompts of each block
    images: int


def layer_removals(model: PromptedTransformer, batches: Iterable[Sequence[Tensor]]) -> Removals:
    """Measure accuracy without the prompts of each block, and with those of one block alone.

    The normalised images ``(b, 3, h, w)`` and labels ``(b,)`` are read once; each batch is
    classified under all masks. The model is not changed. A UsageError is raised if there are no
    images, the prompts are frozen, or as :func:`require_layers`.
    """
    require_layers(model)
    keep = model.prompts.keep.clone()
    layers = len(keep)
    alone = torch.eye(layers, dtype=torch.bool, device=keep.device)[..., None]
    masks = [keep, torch.zeros_like(keep), *(keep & ~alone), *(keep & alone)]
    untouched, none, *each, images = accuracies(model, masks, batches)
    return Removals(
        untouched, none, each[:layers], each[layers:], keep.sum(1).tolist(), int(images)
    )


def accuracies(
    model: PromptedTransformer, masks: Sequence[Tensor], batches: Iterable[Sequence[Tensor]]
) -> list[float]:
    """Return the accuracy in percent under each mask ``(l, p)``, and the number of images last.

    The images are read once. The model is not changed. A UsageError is raised if there are no
    images, or the prompts are frozen.
    """
    bank = model.prompts
    bank.require_thawed()
    hits, images = torch.zeros(len(masks), dtype=torch.int64), 0
    with evaluating(model):
        for x, labels, *_ in batches:
            x, labels = x.to(bank.device, bank.dtype), labels.to(bank.device)
            images += len(labels)
            for i, mask in enumerate(masks):
                bank.apply_mask(list(mask))
                hits[i] += int((model.forward(x).argmax(1) == labels).sum())
    if not images:
        raise UsageError("no images to measure accuracy on")
    return [*(100 * hits.double() / images).tolist(), images]


def require_layers(model: PromptedTransformer) -> None:
    """Raise a UsageError unless ``model`` has separate prompts for each block."""
    require_prompts(model)
    if not model.has_own_prompts:
        raise UsageError(
            "VPT-Shallow has prompts in front of the first block only, so that none can be removed "
            "block by block; give a run of VPT-Deep or of visual prefix tuning"
        )

"""What the prompts of each block are worth: accuracy without them, and with no others.

Removal of a layer's prompts is a figure of Kim et al., arXiv 2305.17223; keeping those of one
block alone is this project's.

Axes: b images, l layers of the bank (one for each block), p prompts.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pcvpt.analysis.attention_matrices import left_as_it_was, require_prompts
from pcvpt.analysis.figures.style import COLOURS, QUIET, caption, house_style, panels
from pcvpt.errors import UsageError
from pcvpt.models.transformer import PromptedTransformer


class Removals(NamedTuple):
    """Accuracies in percent.

    Attributes:
        untouched: with all prompts that the model keeps.
        none: without any prompt.
        without: for each block, without its prompts.
        only: for each block, with its prompts and no others.
        kept: prompts of each block.
        images: on how many the accuracies are.
    """

    untouched: float
    none: float
    without: list[float]
    only: list[float]
    kept: list[int]
    images: int


def layer_removals(model: PromptedTransformer, batches: Iterable[Sequence[Tensor]]) -> Removals:
    """Measure accuracy without the prompts of each block, and with those of one block alone.

    The images are read once; each batch is classified under all masks. The model is left as it was.

    Args:
        model: with prompts in every block.
        batches: ``(images (b, 3, h, w), labels (b,))``, normalised.

    Raises:
        UsageError: as :func:`require_layers`, for no images, and for frozen prompts.
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

    The images are read once. The model is left as it was.

    Raises:
        UsageError: for no images, and for frozen prompts.
    """
    bank = model.prompts
    bank.require_thawed()
    hits, images = torch.zeros(len(masks), dtype=torch.int64), 0
    with left_as_it_was(model), torch.no_grad():
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
    """Raise a UsageError unless each block of ``model`` has prompts of its own."""
    require_prompts(model)
    if model.mode == "shallow":
        raise UsageError(
            "VPT-Shallow has prompts in front of the first block only, so that there are none to "
            "remove block by block; give a run of VPT-Deep"
        )


def layers_figure(removals: Removals, title: str) -> Figure:
    """Draw both curves against the block, each beside what it is to be compared with.

    The band is one standard error of the accuracy of so many images, √(a (1 - a) / images).
    """
    blocks = range(len(removals.kept))
    share = removals.untouched / 100
    error = 100 * math.sqrt(share * (1 - share) / removals.images)
    with house_style():
        figure, (left, right) = panels(2, width=4.6, height=3.8)
        for axes, values, colour, label in (
            (left, removals.without, COLOURS[1], "without this block's prompts"),
            (right, removals.only, COLOURS[0], "with this block's prompts alone"),
        ):
            low, high = removals.untouched - error, removals.untouched + error
            axes.axhspan(low, high, color=QUIET, alpha=0.2, linewidth=0)
            axes.axhline(removals.untouched, color=QUIET, label="all prompts (± standard error)")
            axes.plot(blocks, values, marker="o", color=colour, label=label)
            axes.set(xlabel="block", ylabel="accuracy (%)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.axhline(removals.none, color=COLOURS[6], linestyle="--", label="no prompts")
        left.set_title("Prompts of one block removed")
        right.set_title("Prompts of one block kept")
        for axes in (left, right):
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16))
        caption(figure, title)
    return figure

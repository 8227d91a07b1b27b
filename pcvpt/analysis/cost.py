"""Multiply-accumulates of one image, and parameters, of a model and of each of its blocks.

Patch embedding, the patch merging of a hierarchical backbone, attention pooling and the head count
too; they belong to no block. No function here changes the model or needs its weights, so it may be
on the meta device.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcvpt.analysis.mac_counting import macs_by_block, without_weights
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer
from pcvpt.models.prompt_bank import Form
from pcvpt.models.transformer import Execution

_BLOCK = re.compile(r"(layers\.\d+\.)?blocks\.\d+")  # of a plain, or of a hierarchical, transformer


@dataclass(frozen=True)
class BlockCost:
    """One block's share of a :class:`Cost`."""

    name: str  # of timm's module, such as blocks.3 or layers.2.blocks.5
    macs: int  # multiply-accumulates of one image
    prompts: int  # kept ones that enter here; those of Shallow enter the first block
    trained: int  # parameters of those prompts
    frozen: int  # parameters of the block itself


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates and parameters of a model.

    A batch computes those that are ``shared`` once and not for each image: the keys and values of
    prompts in the execution "prefix". (Training with prompt dropout may share none.)
    """

    macs: int  # multiply-accumulates of a batch of one image, with the head
    shared: int  # part of them
    trained: int  # number of parameters: kept prompts, and the head
    frozen: int  # number of parameters of the backbone
    blocks: tuple[BlockCost, ...]  # in the order of computation

    @property
    def prompts(self) -> int:
        """Number of kept prompts of all layers."""
        return sum(block.prompts for block in self.blocks)


def bare_cost(model: PromptedTransformer) -> Cost:
    """Return the cost of the backbone and the head without prompts, as timm computes them."""
    return condensed_cost(model, [0] * len(model.prompts.keep), "tokens")


def tokens_cost(model: PromptedTransformer) -> Cost:
    """Return the cost with all prompts in the sequence, masked ones too."""
    return condensed_cost(model, [model.prompts.keep.shape[1]] * len(model.prompts.keep), "tokens")


def prefix_cost(model: PromptedTransformer) -> Cost:
    """Return the cost with all prompts as keys and values, masked ones too."""
    return condensed_cost(model, [model.prompts.keep.shape[1]] * len(model.prompts.keep))


def condensed_cost(
    model: PromptedTransformer,
    keep: Sequence[Tensor] | Sequence[int],
    execution: Execution = "prefix",
    form: Form | None = None,
) -> Cost:
    """Return the cost of ``model`` with the prompts of ``keep``, not those that it keeps now.

    The model may be on any device. ``keep`` has for each layer a boolean ``(p,)`` tensor, as
    :func:`pcvpt.select_prompts` returns it, or the number of prompts kept. Prompts have this
    ``execution``, and a ``form``: by default the model's, in the execution "tokens" always "token".
    A UsageError is raised if the model has other layers, or fewer prompts.
    """
    hollow = _condensed(model, keep, execution, form)
    bank = hollow.prompts
    macs = macs_by_block(hollow, images=1)
    counts = bank.counts()
    # A second image adds only what is not shared.
    shares = hollow.execution == "prefix" and any(counts)
    shared = 2 * macs[""] - macs_by_block(hollow, images=2)[""] if shares else 0
    values = [bank(layer, 1).numel() for layer in range(len(counts))]  # of kept prompts
    blocks = {name: part for name, part in hollow.named_modules() if _BLOCK.fullmatch(name)}
    entering = dict(zip(blocks, zip(counts, values, strict=True), strict=False))
    return Cost(
        macs[""],
        shared,
        sum(values) + _parameters(hollow, trained=True),
        _parameters(hollow, trained=False),
        tuple(
            BlockCost(name, macs[name], count, trained, _parameters(block, trained=False))
            for name, block in blocks.items()
            for count, trained in [entering.get(name, (0, 0))]
        ),
    )


def condensed_macs(
    model: PromptedTransformer,
    keep: Sequence[Tensor] | Sequence[int],
    execution: Execution = "prefix",
    form: Form | None = None,
) -> int:
    """Return the multiply-accumulates of :func:`condensed_cost`, and count nothing else."""
    return macs_by_block(_condensed(model, keep, execution, form), images=1)[""]


def million(macs: int) -> str:
    """Return a number of multiply-accumulates as text, in millions or from 1e9 on in billions."""
    return f"{macs / 1e6:,.1f} M" if macs < 1e9 else f"{macs / 1e9:,.2f} G"


def _condensed(
    model: PromptedTransformer,
    keep: Sequence[Tensor] | Sequence[int],
    execution: Execution,
    form: Form | None,
) -> PromptedTransformer:
    """Return a copy of ``model`` without weights, with the prompts of :func:`condensed_cost`."""
    prompts = model.prompts.keep.shape[1]
    masks = []
    for layer in keep:
        if not isinstance(layer, Tensor) and not 0 <= layer <= prompts:
            raise UsageError(f"keep={layer} prompts in a layer; this model has {prompts} in each")
        masks.append(layer.cpu() if isinstance(layer, Tensor) else torch.arange(prompts) < layer)
    hollow = without_weights(model)
    form = "token" if execution == "tokens" else form or hollow.prompts.form
    if form != hollow.prompts.form:
        hollow.prompts.change_form(form)
    hollow.prompts.apply_mask(masks)
    hollow.execution = execution
    return hollow


def _parameters(module: nn.Module, trained: bool) -> int:
    """Return the number of parameters of ``module``, without those of prompts."""
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad is trained and not name.startswith("prompts.")
    )

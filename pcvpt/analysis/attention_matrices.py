"""Attention matrices of all tokens and prompts.

Axes: b images, w windows of an image (1 except in Swin), h heads, k tokens and prompts of one
sequence, of which the prompts are the last.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from pcvpt.errors import UsageError
from pcvpt.models.attention_hooks import AnyPromptedAttention, attention_pre_hooks
from pcvpt.models.evaluation_mode import evaluating, prepared_images
from pcvpt.models.transformer import PromptedTransformer


class BlockAttention(NamedTuple):
    """The attention of one block.

    A row of ``weights`` is a query and sums to 1. Prompts that are keys and values have no queries:
    their rows are zero.
    """

    block: int  # from 0
    layer: int  # of the prompt bank, whose prompts the block attends to
    weights: Tensor  # (b, w, h, k, k), float64
    prompts: int  # the last rows and columns


def watch_attention(
    model: PromptedTransformer, images: Tensor, callback: Callable[[BlockAttention], None]
) -> Tensor:
    """Run ``model`` and call ``callback`` with the attention of each block in turn.

    Prompts that are tokens are computed in the execution "tokens", because in VPT-Deep the query of
    a prompt exists only there. What the query reads is dropped after the block. Afterwards the
    model is as before.

    The images are normalised ``(b, 3, h, w)``. All prompts may be masked. The result are logits
    ``(b, classes)``. A UsageError is raised if the model has no prompts, or frozen ones.
    """
    require_prompts(model)

    def record(
        block: int, attention: AnyPromptedAttention, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        windows = args[0].shape[1] if args[0].ndim == 4 else 1
        weights = attention.attention_map(*args, **kwargs).double()
        weights = weights.reshape(len(args[0]), windows, -1, *weights.shape[-2:])
        weights = F.pad(weights, (0, 0, 0, weights.shape[-1] - weights.shape[-2]))
        source = attention.source
        assert source is not None  # because the model has prompts
        callback(BlockAttention(block, source.layer, weights, source.count()))

    with evaluating(model), attention_pre_hooks(model, record):
        if model.prompts.form == "token":
            model.execution = "tokens"
        for block in model.blocks:
            if hasattr(block, "lean"):
                block.lean = False  # all rows, also those that the pooling does not read
        try:
            # Not as compiled: a compiled graph does not call hooks.
            logits: Tensor = model.forward(prepared_images(model, images))
        finally:
            model.execution = model.execution  # arranges the blocks again
    return logits


def require_prompts(model: PromptedTransformer) -> None:
    """Raise a UsageError unless ``model`` has prompts."""
    if not model.prompts.keep.numel():
        raise UsageError("a linear probe has no prompts; give a run with prompts")

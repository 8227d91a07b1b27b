"""Whole attention matrices: of all tokens, prompts among them, as the literal form has them.

Axes: b images, w windows of an image (1 where there are none), h heads, k tokens and prompts of
one sequence, of which the prompts stand last.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcvpt.errors import UsageError
from pcvpt.models.attention_hooks import Attending, watched
from pcvpt.models.transformer import PromptedTransformer


class BlockAttention(NamedTuple):
    """The attention of one block.

    Attributes:
        block: its number, from 0.
        layer: of the bank, from which its prompts come.
        weights: ``(b, w, h, k, k)``, float64; a row is a query and sums to 1.
        prompts: how many prompts there are, the last rows and columns.
    """

    block: int
    layer: int
    weights: Tensor
    prompts: int


def watch_attention(
    model: PromptedTransformer, images: Tensor, see: Callable[[BlockAttention], None]
) -> Tensor:
    """Show ``see`` the attention of each block in turn, in the token form; return the logits.

    In VPT-Deep the row of a prompt exists in this form only, and what it reads is discarded after
    the block. The model is left as it was.

    Args:
        model: with prompts, all of which may be masked.
        images: normalised, ``(b, 3, h, w)``.
        see: called once for each block, while its input is at hand.

    Raises:
        UsageError: for a model without prompts, or whose prompts are frozen.
    """
    require_prompts(model)

    def look(
        block: int, attention: Attending, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        windows = args[0].shape[1] if args[0].ndim == 4 else 1
        weights = attention.attention_map(*args, **kwargs).double()
        weights = weights.reshape(len(args[0]), windows, -1, *weights.shape[-2:])
        source = attention.source
        assert source is not None  # as there are prompts
        see(BlockAttention(block, source.layer, weights, source.count()))

    with left_as_it_was(model), torch.no_grad():
        model.execution = "tokens"
        with watched(model, look):
            # Not as compiled: a graph knows no hook.
            logits: Tensor = model.forward(images.to(model.prompts.device, model.prompts.dtype))
    return logits


@contextmanager
def left_as_it_was(model: PromptedTransformer) -> Iterator[None]:
    """Hold evaluation mode; restore mode, mask and execution of ``model`` at the end."""
    bank, keep = model.prompts, model.prompts.keep.clone()
    training, execution = model.training, model.execution
    model.eval()
    try:
        yield
    finally:
        if not torch.equal(bank.keep, keep):
            bank.apply_mask(list(keep))
        if model.execution != execution:
            model.execution = execution
        model.train(training)


def require_prompts(model: PromptedTransformer) -> None:
    """Raise a UsageError unless ``model`` has prompts."""
    if not model.prompts.keep.numel():
        raise UsageError("a linear probe has no prompts to look at; give a run with prompts")

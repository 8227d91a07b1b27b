"""Prompts of all blocks taken, normalised and rounded together, before the first block.

A GPU computes a step as a sequence of kernels, and each takes a few microseconds of the processor
to start. Prompts are so few that these are most of their cost if each block prepares its own.

Axes: b batch, l layers, p prompts, d width, r rows: the prompts of some layers, one after another.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcvpt.models.prompt_bank import PromptBank


def is_trained_at_once(model: Any) -> bool:
    """Whether the next forward pass of a prompted ``model`` may take its prompts together.

    Not where blocks are computed a second time in the backward pass, and not in a compiled graph,
    whose compiler joins operations by itself.
    """
    if torch.compiler.is_compiling() or not (model.training and torch.is_grad_enabled()):
        return False
    parts = (model, *getattr(model, "layers", ()))
    again = any(getattr(part, "grad_checkpointing", False) for part in parts)
    return model.mode != "linear" and not again


@contextmanager
def at_once(model: Any, batch: int) -> Iterator[None]:
    """Let the blocks of ``model`` use prompts that were prepared together, within this context.

    Under autocast this goes as far as the block's norm, whose result then differs by the round-off
    of float32, and one draw of dropout serves all blocks of one width. Without autocast the prompts
    are taken from the bank together, which changes no result.
    """
    bank: PromptBank = model.prompts
    norms = [block.prompt_norm() for block in model.blocks]
    normed = _are_normed(model, norms)
    bank.taken, bank.normed = [], []
    try:
        for layers, rows, counts in bank.rows():
            if normed:
                bank.normed += _normed(bank.drop(rows, batch), norms[layers], counts)
            else:
                bank.taken += rows.split(counts)
        yield
    finally:
        bank.taken, bank.normed = [], []


def _are_normed(model: Any, norms: Sequence[nn.Module]) -> bool:
    """Whether all prompts pass the same kind of norm and enter as keys and values alone."""
    return (
        torch.is_autocast_enabled(model.prompts.device.type)
        and model.takes_keys_values
        and model.prompts.form == "token"
        and all(isinstance(norm, nn.LayerNorm) and norm.bias is not None for norm in norms)
    )


def _normed(rows: Tensor, norms: Sequence[Any], counts: Sequence[int]) -> Sequence[Tensor]:
    """Return the prompts ``(b or 1, p, d)`` of each layer in the precision of autocast.

    Args:
        rows: Prompts of the layers ``(b, r, d)`` or ``(r, d)``.
        norms: LayerNorm of each layer.
        counts: Number p of prompts of each layer.
    """
    weight, bias = (
        torch.cat([part.expand(p, -1) for part, p in zip(parts, counts, strict=True)])
        for parts in zip(*((norm.weight, norm.bias) for norm in norms), strict=True)
    )
    found = F.layer_norm(rows, rows.shape[-1:], eps=norms[0].eps)
    found = torch.addcmul(bias, found, weight).to(torch.get_autocast_dtype(rows.device.type))
    split: Sequence[Tensor] = found.reshape(-1, *found.shape[-2:]).split(list(counts), dim=1)
    return split

"""Prompts of all blocks taken, normalised and rounded together, before the first block.

To start a kernel of a GPU takes the processor some microseconds, and the kernels of prompts are
small, so they would take as long to start as to run if each block had its own.

Axes: b batch, p prompts, d width, r rows: the prompts of some layers, one after another.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcvpt.models.prompt_bank import PromptBank


def autocast_type(device: str) -> torch.dtype | None:
    """Return the type to which autocast rounds on ``device``; None where it is off or unknown."""
    known = torch.amp.is_autocast_available(device)
    return torch.get_autocast_dtype(device) if known and torch.is_autocast_enabled(device) else None


def is_trained_at_once(model: Any) -> bool:
    """Whether the next forward pass of a prompted ``model`` may take its prompts together.

    Not where blocks are computed a second time, nor in a compiled graph, whose compiler joins
    operations by itself.
    """
    if torch.compiler.is_compiling() or not (model.training and torch.is_grad_enabled()):
        return False
    parts = (model, *getattr(model, "layers", ()))
    again = any(getattr(part, "grad_checkpointing", False) for part in parts)
    return model.mode != "linear" and not again


@contextmanager
def at_once(model: Any, batch: int) -> Iterator[None]:
    """Let the blocks of ``model`` use prompts that were prepared together, within this context.

    Under autocast they have passed the norms too, by other operations: results differ by round-off
    of float32, and one draw of dropout serves all blocks of a width. Otherwise nothing changes.
    """
    bank: PromptBank = model.prompts
    norms = [block.prompt_norm() for block in model.blocks]
    normed = (
        autocast_type(bank.device.type) is not None
        and model.takes_keys_values
        and bank.form == "token"
        and all(isinstance(norm, nn.LayerNorm) and norm.bias is not None for norm in norms)
    )
    try:
        for layers, rows, counts in bank.rows():
            if normed:
                bank.normed += _normed(bank.drop(rows, batch), norms[layers], counts)
            else:
                bank.taken += rows.split(counts)
        yield
    finally:
        bank.taken, bank.normed = [], []


def _normed(rows: Tensor, norms: Sequence[Any], counts: list[int]) -> Sequence[Tensor]:
    """Return the prompts ``(b or 1, p, d)`` of each layer, of ``rows`` ``(b, r, d)`` or ``(r, d)``.

    ``norms`` and ``counts`` are the LayerNorm and the number of prompts of each layer.
    """
    weight, bias = (
        torch.cat([part.expand(p, -1) for part, p in zip(parts, counts, strict=True)])
        for parts in zip(*((norm.weight, norm.bias) for norm in norms), strict=True)
    )
    found = F.layer_norm(rows, rows.shape[-1:], eps=norms[0].eps)
    found = torch.addcmul(bias, found, weight).to(torch.get_autocast_dtype(rows.device.type))
    split: Sequence[Tensor] = (found if found.dim() == 3 else found[None]).split(counts, dim=1)
    return split

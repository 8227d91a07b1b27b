"""Keys and values of the prompts of all blocks, computed together before the first block.

To start a kernel of a GPU takes the processor some microseconds, and the kernels of prompts are
small, so they would take as long to start as to run if each block had its own.

Axes: b batch, l layers of one width, p prompts of the layer with the most, d width, h heads,
c head width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    Under autocast they are keys and values already, by other operations: results differ by
    round-off, and one draw of dropout serves all blocks of a width. Otherwise nothing changes.
    """
    bank, rounded = model.prompts, autocast_type(model.prompts.device.type)
    known = rounded is not None and not model.why_tokens() and bank.form == "token"
    stacks = _stacks(model, rounded) if known else None
    try:
        for layers, values in bank.runs():
            # One operation takes all; behind its own, a layer with fewer than the most has others.
            positions, counts = bank.positions(layers), bank.counts()[layers]
            rows = values if positions is None else values.flatten(0, 1)[positions]
            if stacks is None:
                bank.taken += [own[:count] for own, count in zip(rows, counts, strict=True)]
            else:
                found = _projected(bank.drop(rows, batch), *stacks[layers.start])
                own = zip(found, counts, strict=True)
                bank.projected += [part[:, :count] for part, count in own]
        yield
    finally:
        bank.taken, bank.projected = [], []


def _projected(
    rows: Tensor, eps: float, norm: Tensor, shift: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Return keys and values ``(l, b or 1, p, 2hc)`` of prompts ``(b, l, p, d)`` or ``(l, p, d)``.

    The others are what :func:`_stacks` returns.
    """
    found = F.layer_norm(rows, rows.shape[-1:], eps=eps)
    found = torch.addcmul(shift, found, norm).to(weight.dtype)
    found = found[:, None] if found.dim() == 3 else found.transpose(0, 1)
    y: Tensor = torch.baddbmm(bias, found.flatten(1, 2), weight.mT).unflatten(1, found.shape[1:3])
    return y


def _stacks(model: Any, dtype: torch.dtype | None) -> dict[int, Any] | None:
    """Return norm and projection of the prompts of the layers of each width, by the first of them.

    They are kept until a weight changes or moves: epsilon, weight and bias ``(l, 1, d)`` of the
    norms, weight ``(l, 2hc, d)`` and bias ``(l, 1, 2hc)`` of keys and values in ``dtype``. None
    where a layer has others, or trains them.
    """
    bank, pairs = model.prompts, [(block.prompt_norm(), block.attn) for block in model.blocks]
    if not all(isinstance(n, nn.LayerNorm) and isinstance(a.qkv, nn.Linear) for n, a in pairs):
        return None
    modules = [part for norm, attn in pairs for part in (norm, attn, attn.qkv)]
    parts = [own for part in modules for own in part._parameters.values() if own is not None]
    if any(own.requires_grad or own.is_inference() for own in parts):
        return None
    state = [(id(own), own._version, own.device, dtype) for own in parts]
    if bank.stacks is None or bank.stacks[0] != state:
        with torch.inference_mode(False), torch.no_grad():
            made = {run.start: _stacked(pairs[run], dtype) for run, _ in bank.runs()}
        bank.stacks = state, parts, made  # the parts too, so that no other gets the id of one
    found: dict[int, Any] = bank.stacks[2]
    return found


def _stacked(pairs: Sequence[tuple[Any, Any]], dtype: torch.dtype | None) -> tuple[Any, ...]:
    norms, weights = [norm for norm, _ in pairs], [attn.qkv.weight for _, attn in pairs]
    first = len(weights[0]) // 3  # the queries'
    own = [attn._qkv_bias() for _, attn in pairs]
    biases = [weights[0].new_zeros(3 * first) if bias is None else bias for bias in own]
    return (
        norms[0].eps,
        torch.stack([norm.weight for norm in norms])[:, None],
        torch.stack([norm.bias for norm in norms])[:, None],
        torch.stack([weight[first:] for weight in weights]).to(dtype),
        torch.stack([bias[first:] for bias in biases])[:, None].to(dtype),
    )

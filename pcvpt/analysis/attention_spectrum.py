"""The spectrum of attention matrices: how close they are to a low rank, and what prompts add.

Wang et al., "Linformer", arXiv 2006.04768, section 3, show by the cumulative spectrum that
self-attention is nearly of low rank; Kim et al., arXiv 2305.17223, add that m prompts raise the
rank by O(log m) only. How the spectra of blocks, heads, images and windows are joined is this
project's choice: each is cumulated and normalised, then they are averaged.

Axes: l blocks, h heads, b images, w windows, k tokens and prompts of one sequence.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pcvpt.analysis.attention_matrices import BlockAttention, require_prompts, watch_attention
from pcvpt.condensation.selection import select_prompts
from pcvpt.errors import UsageError
from pcvpt.models.transformer import PromptedTransformer

Values = Literal["eigen", "singular"]
_AT_ONCE = 4  # images, because all matrices of a block are in memory


def attention_spectrum(
    model: PromptedTransformer, images: Tensor, values: Values = "eigen"
) -> list[Tensor]:
    """Return the normalised cumulative spectrum of each block's attention, for each head.

    The matrix has all tokens and kept prompts, in the execution "tokens". In Swin it is that of a
    window, and the mean is over windows, too. The model is not changed. The mean is over normalised
    images ``(b, 3, height, width)``; ``values`` are those of :func:`normalised_cumulative`.

    The spectrum of a block is ``(h, k)``, float64 on the CPU, rising to 1; blocks may differ in h
    and k. A UsageError is raised if there are no images, the prompts are keys and values, and as in
    :func:`~pcvpt.analysis.attention_matrices.watch_attention`.
    """
    if not len(images):
        raise UsageError("no images to compute a spectrum of")
    require_tokens(model)
    totals: dict[int, Tensor] = {}

    def add(seen: BlockAttention) -> None:
        curves = normalised_cumulative(seen.weights, values).mean(1).sum(0)
        totals[seen.block] = totals.get(seen.block, torch.zeros_like(curves)) + curves

    for part in images.split(_AT_ONCE):
        watch_attention(model, part, add)
    return [totals[block] / len(images) for block in sorted(totals)]


def require_tokens(model: PromptedTransformer) -> None:
    """Raise a UsageError unless the prompts of ``model`` are tokens, which have queries."""
    if model.prompts.form == "key_value":
        raise UsageError(
            "the spectrum is of a square matrix; prompts that are keys and values have no queries, "
            "which are its rows; give a checkpoint whose prompts are tokens, as prompt-last of Deep"
        )


def normalised_cumulative(matrices: Tensor, values: Values = "eigen") -> Tensor:
    """Return the share of the largest 1, 2, ..., k values in the sum of all, ``(..., k)``.

    They are absolute eigenvalues ("eigen") or singular values ("singular") of ``matrices``
    ``(..., k, k)``, computed on the CPU, because not every device has float64. A UsageError refuses
    other ``values``.
    """
    if values not in get_args(Values):
        raise UsageError(f"values={values!r}; choose one of {', '.join(get_args(Values))}")
    exact = matrices.cpu().double()
    if values == "eigen":
        sizes = torch.linalg.eigvals(exact).abs().sort(dim=-1, descending=True).values
    else:
        sizes = torch.linalg.svdvals(exact)
    shares: Tensor = sizes.cumsum(-1) / sizes.sum(-1, keepdim=True)
    return shares


def rank_for(cumulative: Tensor, share: float) -> Tensor:
    """Return the number ``(...)`` of the largest values that have at least ``share`` of all.

    Shares ``(..., k)`` are ``cumulative``, as :func:`normalised_cumulative` returns them. A
    UsageError is raised if the share is not in (0, 1].
    """
    check_share(share)
    return (cumulative < share - 1e-9).sum(-1) + 1  # the round-off of a sum is allowed for


def check_share(share: float) -> None:
    """Raise a UsageError unless ``share`` is in (0, 1]."""
    if not 0 < share <= 1:
        raise UsageError(f"share={share}; give a part of the spectrum, in (0, 1]")


def over_blocks(spectra: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation over the spectra ``(h, k)`` of all blocks, ``(longest k,)``.

    A shorter spectrum is continued with 1.
    """
    longest = max(curves.shape[1] for curves in spectra)
    padded = [F.pad(curves, (0, longest - curves.shape[1]), value=1.0) for curves in spectra]
    joint = torch.cat(padded)
    return joint.mean(0), joint.std(0, unbiased=False)


def best_of_each_layer(model: PromptedTransformer, count: int, scores: Tensor) -> list[Tensor]:
    """Return a mask with the best ``count`` kept prompts of each layer, or all if it keeps fewer.

    If a kept prompt has none of ``scores`` ``(l, p)``, the first prompts are taken. A UsageError is
    raised if the model has no prompts, or no layer keeps that many.
    """
    require_prompts(model)
    keep, most = model.prompts.keep, max(model.prompts.counts())
    if not 0 <= count <= most:
        raise UsageError(f"{count} prompts; the model keeps at most {most} in a block; give fewer")
    if not count:
        return list(torch.zeros_like(keep))
    order = scores.to(keep.device)
    if not are_scores(scores, keep):
        order = -torch.arange(keep.shape[1], device=keep.device).double().expand(keep.shape)
    return select_prompts(list(order.masked_fill(~keep, float("-inf"))), None, "layer", count=count)


def are_scores(scores: Tensor, keep: Tensor) -> bool:
    """Return whether each kept prompt has a score."""
    return bool(scores.to(keep.device)[keep].isfinite().all())


def logarithmic_fit(lengths: Sequence[float], ranks: Sequence[float]) -> tuple[float, float] | None:
    """Fit rank = a + b ln n by least squares; return (a, b), or None if all lengths are equal."""
    if math.isclose(min(lengths), max(lengths)):
        return None
    slope, intercept = np.polyfit(np.log(lengths), ranks, 1)
    return float(intercept), float(slope)

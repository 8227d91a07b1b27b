"""Which prompts to keep, given their scores."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from pcvpt.errors import UsageError

Scope = Literal["global", "stage", "layer"]


def select_prompts(
    scores: Sequence[Tensor],
    keep: float | None = 0.3,
    scope: Scope = "global",
    *,
    count: int | None = None,
    stages: Sequence[int] | None = None,
) -> list[Tensor]:
    """Mark the prompts with the highest scores.

    Ties go to the earlier layer, then to the earlier prompt, so that every process of a
    distributed run marks the same.

    Args:
        scores: for each layer a tensor ``(p,)``; -inf marks prompts that are gone already.
        keep: fraction of all prompts to keep, in (0, 1]; at least one prompt is kept.
        scope: "global" ranks over all layers (Kim et al., arXiv 2305.17223), "layer" within each
            layer, "stage" within each stage of a hierarchical backbone.
        count: keep this many prompts in all (within each group under "layer" and "stage")
            instead of a fraction; give ``keep=None``.
        stages: the stage of each layer, for scope "stage", as ``model.prompts.stages`` says it;
            one stage when None.

    Returns:
        For each layer a boolean tensor ``(p,)``, True where a prompt is kept.

    Raises:
        UsageError: for numbers out of their range, an unknown scope, or scores that are NaN.
    """
    check_budget(keep, count)
    if scope not in get_args(Scope):
        raise UsageError(f"scope {scope!r}; choose one of {', '.join(get_args(Scope))}")
    if any(bool(layer.isnan().any()) for layer in scores):
        raise UsageError("the scores hold NaN; did the loss diverge?")
    if stages is not None and len(stages) != len(scores):
        raise UsageError(f"{len(stages)} stages for {len(scores)} layers; give one for each layer")
    groups = {
        "global": [0] * len(scores),
        "stage": list(stages or [0] * len(scores)),
        "layer": list(range(len(scores))),
    }[scope]
    marks = [torch.zeros_like(layer, dtype=torch.bool) for layer in scores]
    for group in dict.fromkeys(groups):
        members = [i for i, of in enumerate(groups) if of == group]
        joint = torch.cat([scores[i] for i in members])
        best = torch.sort(joint, descending=True, stable=True).indices[: _size(joint, keep, count)]
        chosen = torch.zeros_like(joint, dtype=torch.bool)
        chosen[best] = True
        chosen &= joint != float("-inf")
        for i, mark in zip(members, chosen.split([len(scores[i]) for i in members]), strict=True):
            marks[i] = mark
    return marks


def largest_cut(
    scores: Sequence[Tensor],
    evaluate: Callable[[list[Tensor]], float],
    max_drop: float,
    scope: Scope = "global",
    *,
    stages: Sequence[int] | None = None,
    steps: int = 20,
) -> list[Tensor]:
    """Keep the fewest prompts with which accuracy falls by no more than ``max_drop``.

    Tries the fractions 1/steps, 2/steps, ... from the smallest up and takes the first that holds.

    Args:
        scores: as for :func:`select_prompts`.
        evaluate: accuracy in percent under a mask, on validation data.
        max_drop: in percentage points against all prompts, at least 0.
        scope: as for :func:`select_prompts`.
        stages: as for :func:`select_prompts`.
        steps: fractions tried; one evaluation each, at most.

    Raises:
        UsageError: when ``max_drop`` is negative.
    """
    check_drop(max_drop)
    everything = select_prompts(scores, 1.0, scope, stages=stages)
    floor = evaluate(everything) - max_drop
    for step in range(1, steps):
        keep = select_prompts(scores, step / steps, scope, stages=stages)
        if evaluate(keep) >= floor:
            return keep
    return everything


def check_budget(keep: float | None, count: int | None) -> None:
    """Raise a UsageError unless exactly one of ``keep`` and ``count`` is given, in its range."""
    if (keep is None) == (count is None):
        raise UsageError(f"keep={keep} and count={count}; give exactly one of them")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError(f"keep={keep}; give the fraction of prompts to keep, in (0, 1]")
    if count is not None and count < 1:
        raise UsageError(f"count={count}; keep at least one prompt")


def check_drop(max_drop: float) -> None:
    """Raise a UsageError unless ``max_drop`` is a number of percentage points, at least 0."""
    if not max_drop >= 0:
        raise UsageError(f"max_drop={max_drop}; give percentage points, at least 0")


def _size(joint: Tensor, keep: float | None, count: int | None) -> int:
    if count is not None:
        if count > len(joint):
            raise UsageError(f"count={count}, but there are only {len(joint)} prompts")
        return count
    assert keep is not None
    return max(1, int(keep * len(joint) + 0.5))

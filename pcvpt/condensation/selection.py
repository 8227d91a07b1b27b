"""Selection of the prompts to keep, by their scores."""

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
        scores: Scores of each layer, a tensor ``(p,)``; -inf marks prompts that are masked already.
        keep: Fraction of all prompts to keep, in (0, 1]; at least one prompt is kept. Default: 0.3.
        scope: Prompts that are ranked together: "global" over all layers (Kim et al., arXiv
            2305.17223), "layer" within each layer, "stage" within each stage of a hierarchical
            backbone. Default: "global".
        count: Number of prompts to keep instead of a fraction, with ``keep=None``: of all layers,
            or within each group under "layer" and "stage". Default: None.
        stages: Stage of each layer for the scope "stage", such as ``model.prompts.stages``.
            Default: all layers are one stage.

    Returns:
        For each layer a boolean tensor ``(p,)``, True where a prompt is kept.

    Raises:
        UsageError: If a number is out of its range, the scope is unknown, or a score is NaN.
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
        if (count or 0) > len(joint):
            raise UsageError(f"count={count}, but there are only {len(joint)} prompts")
        size = count or max(1, int((keep or 0) * len(joint) + 0.5))
        rank = torch.sort(joint, descending=True, stable=True).indices.argsort()
        chosen = (rank < size) & (joint != float("-inf"))
        for i, mark in zip(members, chosen.split([len(scores[i]) for i in members]), strict=True):
            marks[i] = mark
    return marks


def fewest_within_drop(
    scores: Sequence[Tensor],
    evaluate: Callable[[list[Tensor]], float],
    max_drop: float,
    scope: Scope = "global",
    *,
    stages: Sequence[int] | None = None,
    steps: int = 20,
) -> list[Tensor]:
    """Keep the fewest prompts with which accuracy falls by no more than ``max_drop``.

    The fractions 1/steps, 2/steps, ... are tried from the smallest up. ``scores``, ``scope`` and
    ``stages`` are those of :func:`select_prompts`.

    Args:
        evaluate: Function from a mask to the accuracy in percent on validation data.
        max_drop: Largest fall of accuracy against all prompts, in percentage points, at least 0.
        steps: Number of fractions; each takes one evaluation. Default: 20.

    Raises:
        UsageError: If ``max_drop`` is negative.
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
        raise UsageError(
            f"keep={keep}; give the fraction of prompts to keep (condense.keep), in (0, 1]"
        )
    if count is not None and count < 1:
        raise UsageError(f"count={count}; keep at least one prompt")


def check_drop(max_drop: float) -> None:
    """Raise a UsageError unless ``max_drop`` is a number of percentage points, at least 0."""
    if not max_drop >= 0:
        raise UsageError(f"max_drop={max_drop}; give percentage points, at least 0")

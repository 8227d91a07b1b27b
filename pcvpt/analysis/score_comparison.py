"""The scores of prompts against each other: how alike they are, and what they keep is worth.

Kim et al., arXiv 2305.17223, compare scores and rankings, too; which ones, and how, is not known,
so that this comparison is this project's.

Axes: l layers of the bank, p prompts of each, m scores that are compared.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.analysis.layer_removal import accuracies
from pcvpt.condensation import Method, Scope, score_prompts, select_prompts
from pcvpt.condensation.split_half import rank_correlation
from pcvpt.errors import UsageError
from pcvpt.models.transformer import PromptedTransformer

ABSOLUTE = "|leave_one_out|"
"""Exact removal without its sign: what a score that is an absolute value is a guess of."""

Batches = Iterable[Sequence[Tensor]]
Scored = dict[str, list[Tensor]]


class Worth(NamedTuple):
    """Accuracy right after masking by one score.

    Attributes:
        method: name of the score.
        draw: which of several, of "random"; 0 of all others.
        scope: within which prompts were ranked.
        keep: fraction that was asked for.
        prompts: kept, of all layers.
        accuracy: in percent.
    """

    method: str
    draw: int
    scope: Scope
    keep: float
    prompts: int
    accuracy: float


def score_all(
    model: PromptedTransformer,
    batches: Callable[[], Batches],
    exact: Callable[[], Batches] | None,
    methods: Sequence[Method] = get_args(Method),
    draws: int = 5,
    progress: Callable[[str], object] = lambda name: None,
) -> Scored:
    """Score the prompts of ``model`` by each of ``methods``.

    Args:
        model: with prompts.
        batches: gives ``(images (b, 3, h, w), labels (b,))`` to score with, anew for each method.
        exact: gives those for "leave_one_out", which passes them once for each prompt; None leaves
            it out.
        methods: of :func:`pcvpt.score_prompts`.
        draws: of "random", at least 1.
        progress: called with the name of each method before it begins.

    Returns:
        By name one ``(l, p)`` tensor, of "random" as many as ``draws``; exact removal is there with
        its sign and without.

    Raises:
        UsageError: for a linear probe, fewer than one draw, and what ``score_prompts`` refuses.
    """
    require_prompts(model)
    if draws < 1:
        raise UsageError(f"{draws} draws of a random choice; give at least 1")
    found: Scored = {}
    for method in methods:
        if method == "leave_one_out" and exact is None:
            continue
        progress(method)
        if method == "random":
            found[method] = [
                torch.stack(score_prompts(model, (), method, seed=seed)) for seed in range(draws)
            ]
            continue
        given = exact if method == "leave_one_out" and exact is not None else batches
        found[method] = [torch.stack(score_prompts(model, given(), method))]
        if method == "leave_one_out":
            gone = ~model.prompts.keep
            found[ABSOLUTE] = [found[method][0].abs().masked_fill(gone, float("-inf"))]
    return found


def correlations(scored: Scored, keep: Tensor) -> Tensor:
    """Return Spearman's rank correlation ``(m, m)`` of each pair of scores.

    Where there are several draws, it is the mean over them; of "random" with itself, over pairs of
    different draws, if there are any.

    Args:
        scored: as of :func:`score_all`.
        keep: the prompts that count, ``(l, p)``.
    """
    names = list(scored)
    found = torch.eye(len(names), dtype=torch.float64)
    for i, first in enumerate(names):
        for j, second in enumerate(names[: i + 1]):
            pairs = [
                (a, b)
                for m, a in enumerate(scored[first])
                for n, b in enumerate(scored[second])
                if i != j or m < n
            ]
            if pairs:
                each = [rank_correlation(a[keep], b[keep]) for a, b in pairs]
                found[i, j] = found[j, i] = statistics.fmean(each)
    return found


def scopes_of(model: PromptedTransformer) -> tuple[Scope, ...]:
    """Return the scopes that differ for ``model``."""
    bank = model.prompts
    if len(bank.keep) == 1:
        return ("global",)
    return ("global", "stage", "layer") if len(set(bank.stages)) > 1 else ("global", "layer")


def worth_of_scores(
    model: PromptedTransformer,
    scored: Scored,
    keeps: Sequence[float],
    batches: Batches,
    scopes: Sequence[Scope] | None = None,
) -> tuple[float, list[Worth]]:
    """Return the accuracy of ``model`` as it is, and under each choice of prompts, not fine-tuned.

    The images are read once. The model is left as it was.

    Args:
        model: with prompts.
        scored: as of :func:`score_all`.
        keeps: fractions of all prompts, in (0, 1].
        batches: ``(images (b, 3, h, w), labels (b,))`` of another split than the scores'.
        scopes: of :func:`pcvpt.select_prompts`; those of :func:`scopes_of` if None.

    Raises:
        UsageError: for fractions out of their range, no images, and frozen prompts.
    """
    bank = model.prompts
    chosen = [
        (method, draw, scope, keep, torch.stack(mask).to(bank.device))
        for method, several in scored.items()
        for draw, scores in enumerate(several)
        for scope in scopes or scopes_of(model)
        for keep in keeps
        for mask in [select_prompts(list(scores), keep, scope, stages=bank.stages)]
    ]
    # Several scores may choose the same.
    masks = {_key(mask): mask for *_, mask in chosen} | {_key(bank.keep): bank.keep.clone()}
    *measured, _ = accuracies(model, list(masks.values()), batches)
    by_mask = dict(zip(masks, measured, strict=True))
    return by_mask[_key(bank.keep)], [
        Worth(method, draw, scope, keep, int(mask.sum()), by_mask[_key(mask)])
        for method, draw, scope, keep, mask in chosen
    ]


def _key(mask: Tensor) -> tuple[bool, ...]:
    return tuple(mask.flatten().tolist())

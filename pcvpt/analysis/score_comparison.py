"""Comparison of prompt scores: rank correlations, and accuracy at equal budget.

Kim et al., arXiv 2305.17223, compare scores and rankings, too. Their details are not known here, so
this comparison is this project's choice.

Axes: l layers of the bank, p prompts of each, m scores that are compared.
"""

import copy
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.analysis.layer_removal import accuracies
from pcvpt.condensation import Method, Scope, merge_tree, score_prompts, select_prompts
from pcvpt.condensation.scoring import rank_correlation
from pcvpt.errors import UsageError
from pcvpt.models.transformer import PromptedTransformer

ABSOLUTE = "|leave_one_out|"
"""Exact removal without its sign, which scores that are absolute values approximate."""

Batches = Iterable[Sequence[Tensor]]
Scored = dict[str, list[Tensor]]
"""Scores ``(l, p)`` by name, one for each draw."""


class MaskedAccuracy(NamedTuple):
    """Accuracy in percent right after masking by one score, or after merging (method "merge").

    ``draw`` counts those of "random", ``keep`` is the fraction of the prompts to keep, and
    ``prompts`` the number of kept ones of all layers.
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
    """Score the prompts of ``model`` by each of ``methods`` of :func:`pcvpt.score_prompts`.

    ``batches`` returns an iterator over images ``(b, 3, h, w)`` and labels ``(b,)``; ``exact`` does
    for "leave_one_out", which takes one pass for each prompt, and None leaves it out. ``progress``
    gets the name of each method before it begins.

    The result are scores by name; "random" has one tensor for each of at least 1 ``draws``,
    "leave_one_out" is there with and without its sign. A UsageError is raised if the model is a
    linear probe, there are fewer than one draw, and as in :func:`pcvpt.score_prompts`.
    """
    require_prompts(model)
    if draws < 1:
        raise UsageError(f"{draws} draws of a random choice; give at least 1")
    found: Scored = {}
    for method in methods:
        source = exact if method == "leave_one_out" else batches
        if source is None:
            continue
        progress(method)
        seeds = range(draws) if method == "random" else range(1)
        found[method] = [
            torch.stack(score_prompts(model, source(), method, seed=seed)) for seed in seeds
        ]
        if method == "leave_one_out":
            masked = ~model.prompts.keep
            found[ABSOLUTE] = [found[method][0].abs().masked_fill(masked, float("-inf"))]
    return found


def correlations(scored: Scored, keep: Tensor) -> Tensor:
    """Return Spearman's rank correlation ``(m, m)`` of each pair of scores.

    Only the prompts of ``keep`` count. With several draws it is the mean over them; of "random"
    with itself, the mean over pairs of different draws, if there are any.
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


def accuracies_by_score(
    model: PromptedTransformer, scored: Scored, keeps: Sequence[float], batches: Batches
) -> tuple[float, list[MaskedAccuracy]]:
    """Return the accuracy of ``model`` as it is, and after masking by each score.

    It is measured for each fraction of all prompts in ``keeps``, and each scope of
    :func:`scopes_of`. The images ``(b, 3, h, w)`` and labels ``(b,)``, of another split than the
    scores', are read once. The model is not changed. A UsageError is raised if a fraction is not in
    (0, 1], there are no images, or the prompts are frozen.
    """
    bank = model.prompts
    chosen = [
        (method, draw, scope, keep, torch.stack(mask).to(bank.device))
        for method, several in scored.items()
        for draw, scores in enumerate(several)
        for scope in scopes_of(model)
        for keep in keeps
        for mask in [select_prompts(list(scores), keep, scope, stages=bank.stages)]
    ]
    masks = [bank.keep.clone(), *(mask for *_, mask in chosen)]
    untouched, *measured, _ = accuracies(model, masks, batches)
    return untouched, [
        MaskedAccuracy(method, draw, scope, keep, int(mask.sum()), accuracy)
        for (method, draw, scope, keep, mask), accuracy in zip(chosen, measured, strict=True)
    ]


def accuracies_of_merging(
    model: PromptedTransformer,
    images: Batches,
    keeps: Sequence[float],
    batches: Callable[[], Batches],
) -> list[MaskedAccuracy]:
    """Return the accuracy of ``model`` after merging, as :func:`accuracies_by_score` after masking.

    Merging reads ``images``; ``batches`` returns an iterator over those of another split. Errors
    are those of :func:`pcvpt.merge_prompts`.
    """
    tree = merge_tree(model, images)
    found = []
    for scope in scopes_of(model):
        for keep in keeps:
            merged = copy.deepcopy(model)
            merged.prompts.apply_merge(tree.cut(keep, scope))
            left = merged.prompts.keep
            accuracy, *_ = accuracies(merged, [left], batches())
            found.append(MaskedAccuracy("merge", 0, scope, keep, int(left.sum()), accuracy))
    return found

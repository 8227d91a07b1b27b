from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from pcvpt.analysis.score_comparison import (
    ABSOLUTE,
    accuracies_by_score,
    correlations,
    scopes_of,
    score_all,
)
from pcvpt.condensation import Method, score_prompts, select_prompts
from pcvpt.condensation.scoring import rank_correlation
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer

Build = Callable[..., PromptedTransformer]


def _batches(model: PromptedTransformer, images: Any, count: int = 12) -> list[Sequence[Tensor]]:
    x, y = images(model, count), torch.arange(count) % 5
    return list(zip(x.split(4), y.split(4), strict=True))


@pytest.mark.parametrize("family", ["class_token", pytest.param("swin", marks=pytest.mark.slow)])
def test_every_method_is_scored_as_by_itself(build: Build, images: Any, family: str) -> None:
    model = build(family)
    batches, exact = _batches(model, images), _batches(model, images, 4)
    said: list[str] = []
    scored = score_all(model, lambda: batches, lambda: exact, draws=3, progress=said.append)
    assert said == list(get_args(Method))
    assert list(scored) == [*get_args(Method), ABSOLUTE]
    for method in get_args(Method):
        given = exact if method == "leave_one_out" else batches
        alone = [
            torch.stack(score_prompts(model, given, method, seed=seed))
            for seed in range(3 if method == "random" else 1)
        ]
        assert len(scored[method]) == len(alone)
        assert all(torch.equal(a, b) for a, b in zip(scored[method], alone, strict=True))
    assert torch.equal(scored[ABSOLUTE][0], scored["leave_one_out"][0].abs())


def test_exact_removal_and_methods_may_be_left_out(build: Build, images: Any) -> None:
    model = build()
    batches = _batches(model, images)
    assert ABSOLUTE not in score_all(model, lambda: batches, None, draws=1)
    two = ("magnitude", "random")
    assert tuple(score_all(model, lambda: batches, None, two)) == two
    with pytest.raises(UsageError, match="0 draws"):
        score_all(model, lambda: batches, None, draws=0)
    with pytest.raises(UsageError, match="linear probe"):
        score_all(build(mode="linear", num_prompts=0), lambda: batches, None)


def test_correlations_are_of_pairs_and_means_over_draws() -> None:
    keep = torch.tensor([[True, True, True, True, False]])
    first = torch.tensor([[1.0, 2, 3, 4, float("-inf")]])
    one, two = (torch.tensor([[*row, float("-inf")]]) for row in ([1.0, 2, 4, 3], [4.0, 3, 2, 1]))
    found = correlations({"a": [first], "b": [-first], "random": [one, two]}, keep)
    drawn = (rank_correlation(first[keep], one[keep]) - 1) / 2
    between = rank_correlation(one[keep], two[keep])
    assert drawn == pytest.approx((0.8 - 1) / 2)
    assert found.flatten().tolist() == pytest.approx(
        [1, -1, drawn, -1, 1, -drawn, drawn, -drawn, between]
    )
    assert correlations({"random": [one]}, keep).item() == 1  # with itself


@pytest.mark.parametrize(
    ("family", "options", "scopes"),
    [
        ("class_token", {}, ("global", "layer")),
        ("class_token", {"mode": "shallow"}, ("global",)),
        ("swin", {}, ("global", "stage", "layer")),
    ],
)
def test_what_is_kept_is_worth_what_a_hand_masked_model_is(
    build: Build,
    images: Any,
    accuracy: Any,
    family: str,
    options: dict[str, str],
    scopes: tuple[str, ...],
) -> None:
    model = build(family, **options)
    batches = _batches(model, images)
    assert scopes_of(model) == scopes
    scored = score_all(model, lambda: batches, None, ("gate", "random"), draws=2)
    untouched, worth = accuracies_by_score(model, scored, (0.25, 0.5), batches)
    assert bool(model.prompts.keep.all())
    assert untouched == pytest.approx(accuracy(model, batches))
    assert [(w.method, w.draw, w.scope, w.keep) for w in worth] == [
        (method, draw, scope, keep)
        for method, draw in (("gate", 0), ("random", 0), ("random", 1))
        for scope in scopes
        for keep in (0.25, 0.5)
    ]
    for one in worth:
        mask = select_prompts(
            list(scored[one.method][one.draw]), one.keep, one.scope, stages=model.prompts.stages
        )
        assert one.prompts == sum(int(row.sum()) for row in mask)
        assert one.accuracy == pytest.approx(accuracy(model, batches, mask))


def test_prompts_that_are_gone_stay_so(build: Build, images: Any, mask_some: Any) -> None:
    model = build()
    keep = mask_some(model)
    batches = _batches(model, images)
    scored = score_all(model, lambda: batches, lambda: batches, draws=1)
    assert all((score[~keep] == float("-inf")).all() for (score,) in scored.values())
    assert bool(correlations(scored, keep).isfinite().all())
    _, worth = accuracies_by_score(model, scored, (1.0,), batches)
    assert {one.prompts for one in worth} == {int(keep.sum())}
    assert torch.equal(model.prompts.keep, keep)

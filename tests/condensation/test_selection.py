"""Which prompts are kept: numbers, ties, groups."""

from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pcvpt.condensation import fewest_within_drop, select_prompts
from pcvpt.errors import UsageError

GONE = float("-inf")


def _scores(*rows: list[float]) -> list[Tensor]:
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


def _select(scores: list[Tensor], *args: Any, **options: Any) -> list[list[int]]:
    marks = select_prompts(scores, *args, **options)
    assert all(mark.dtype == torch.bool for mark in marks)
    return [mark.int().tolist() for mark in marks]


SCORES = _scores([0.1, 0.9, 0.3], [0.8, 0.2, 0.7], [0.4, 0.5, 0.6])


@pytest.mark.parametrize(
    ("scope", "options", "kept"),
    [
        ("global", {}, [[0, 1, 0], [1, 0, 1], [0, 0, 0]]),  # 30 %
        ("layer", {"keep": 1 / 3}, [[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
        ("stage", {"keep": 1 / 3, "stages": [0, 0, 1]}, [[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
        ("stage", {"keep": 1 / 3, "stages": [0, 1, 0]}, [[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
        ("stage", {"keep": 2 / 3, "stages": [0, 0, 1]}, [[0, 1, 1], [1, 0, 1], [0, 1, 1]]),
        ("stage", {"keep": 1 / 3}, [[0, 1, 0], [1, 0, 1], [0, 0, 0]]),
        ("global", {"keep": None, "count": 4}, [[0, 1, 0], [1, 0, 1], [0, 0, 1]]),
        ("layer", {"keep": None, "count": 2}, [[0, 1, 1], [1, 0, 1], [0, 1, 1]]),
        ("stage", {"keep": None, "count": 1, "stages": [0, 1, 1]}, [[0, 1, 0], [1, 0, 0], [0] * 3]),
        ("global", {"keep": None, "count": 9}, [[1] * 3] * 3),
    ],
)
def test_the_best_of_each_group_are_kept(
    scope: str, options: dict[str, Any], kept: list[list[int]]
) -> None:
    assert _select(SCORES, scope=scope, **options) == kept


@pytest.mark.parametrize(
    ("prompts", "keep", "kept"),
    [
        (10, 0.3, 3),
        (10, 0.24, 2),
        (10, 0.25, 3),  # a half is rounded up
        (10, 0.26, 3),
        (10, 0.01, 1),  # at least one
        (3, 1e-9, 1),
        (1, 0.3, 1),
        (7, 1.0, 7),
        (240, 0.1, 24),
    ],
)
def test_a_fraction_is_rounded_and_keeps_at_least_one(prompts: int, keep: float, kept: int) -> None:
    (mark,) = select_prompts([torch.rand(prompts)], keep)
    assert int(mark.sum()) == kept


def test_ties_go_to_the_earlier_layer_then_to_the_earlier_prompt() -> None:
    equal = _scores([1, 1, 1], [1, 2, 1])
    assert _select(equal, None, count=1) == [[0, 0, 0], [0, 1, 0]]
    assert _select(equal, None, count=2) == [[1, 0, 0], [0, 1, 0]]
    assert _select(equal, None, count=4) == [[1, 1, 1], [0, 1, 0]]
    assert _select(equal, None, "layer", count=2) == [[1, 1, 0], [1, 1, 0]]
    many = [torch.zeros(500)] * 2  # sorts switch their algorithm with the length
    assert select_prompts(many, 0.3)[0].nonzero().flatten().tolist() == list(range(300))


def test_prompts_that_are_gone_are_never_kept() -> None:
    scores = _scores([GONE, 0.5, GONE], [GONE, GONE, GONE], [0.1, GONE, -3.0])
    before = torch.stack(scores)
    alive = [[0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert _select(scores, 1.0) == alive
    assert _select(scores, None, count=9) == alive
    assert _select(scores, None, "layer", count=1) == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    # A fraction is one of all prompts, those that are gone included.
    assert _select(scores, 1 / 3) == alive
    assert _select(scores, 2 / 9) == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert torch.equal(torch.stack(scores), before)
    # Layers may have different numbers of prompts.
    assert _select(_scores([3], [], [1, 2]), None, count=2) == [[1], [], [0, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"keep": 0.0},
            r"keep=0.0; give the fraction of prompts to keep \(condense.keep\), in \(0, 1\]",
        ),
        ({"keep": -0.1}, "keep=-0.1"),
        ({"keep": 1.1}, "keep=1.1"),
        ({"keep": float("nan")}, "keep=nan"),
        ({"keep": None}, "give exactly one"),
        ({"keep": 0.5, "count": 2}, "give exactly one"),
        ({"keep": None, "count": 0}, "count=0; keep at least one prompt"),
        ({"keep": None, "count": 10}, "count=10, but there are only 9 prompts"),
        ({"keep": None, "count": 4, "scope": "layer"}, "count=4, but there are only 3 prompts"),
        ({"scope": "model"}, "scope 'model'; choose one of global, stage, layer"),
        ({"scores": _scores([0.1, 0.2], [0.3, float("nan")])}, "NaN"),
        ({"scope": "stage", "stages": [0, 0]}, "2 stages for 3 layers"),
    ],
)
def test_a_wrong_argument_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select_prompts(**{"scores": SCORES, **options})


# Few values, so that ties are frequent.
layers = st.integers(1, 4).flatmap(
    lambda prompts: st.lists(
        st.lists(st.sampled_from([GONE, 0.0, 0.25, 0.5, 1.0]), min_size=prompts, max_size=prompts),
        min_size=1,
        max_size=5,
    )
)
scopes = st.sampled_from(["global", "stage", "layer"])
fractions = st.floats(0, 1, exclude_min=True)
quick = settings(max_examples=60, deadline=None, database=None)


@quick
@given(layers, fractions)
def test_the_best_are_kept_as_many_as_asked_for(rows: list[list[float]], keep: float) -> None:
    total, alive = len(rows) * len(rows[0]), sum(score != GONE for row in rows for score in row)
    flat = list(zip(chain(*rows), chain(*_select(_scores(*rows), keep)), strict=True))
    kept, left = [s for s, mark in flat if mark], [s for s, mark in flat if not mark]
    if alive == total:
        assert len(kept) == 1 or abs(len(kept) - keep * total) <= 0.5 + 1e-9
    assert bool(kept) == bool(alive)
    assert GONE not in kept
    assert not kept or not left or min(kept) >= max(left)
    for count in range(1, total + 1):
        assert sum(chain(*_select(_scores(*rows), None, count=count))) == min(alive, count)


@quick
@given(layers, scopes, fractions, fractions)
def test_a_smaller_fraction_keeps_a_subset(
    rows: list[list[float]], scope: str, first: float, second: float
) -> None:
    few = _select(_scores(*rows), min(first, second), scope)
    many = _select(_scores(*rows), max(first, second), scope)
    for fewer, more in zip(few, many, strict=True):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))


WORTH = [[40.0, 30.0, 1.0, 0.0, 0.0], [20.0, 5.0, 2.0, 0.0, 2.0]]  # 100 % in all
RANKING = _scores([10, 9, 3, 1, 0], [8, 7, 6, 2, 5])


def _cut(worth: list[list[float]], *args: Any, **options: Any) -> tuple[list[list[int]], list[int]]:
    """Return the mask that is taken, and the numbers of prompts that were tried.

    Accuracy is the sum of the ``worth`` of the prompts that are kept.
    """
    tried: list[int] = []

    def evaluate(keep: list[Tensor]) -> float:
        mask = torch.stack(keep)
        tried.append(int(mask.sum()))
        return float(torch.tensor(worth)[mask].sum())

    marks = fewest_within_drop(RANKING, evaluate, *args, **options)
    return [mark.int().tolist() for mark in marks], tried


@pytest.mark.parametrize(
    ("max_drop", "kept"), [(0, 7), (0.9, 7), (1, 6), (4.9, 5), (5, 4), (99, 1)]
)
def test_the_search_goes_up_and_ends_at_the_first_that_holds(max_drop: float, kept: int) -> None:
    marks, tried = _cut(WORTH, max_drop, steps=10)
    assert marks == _select(RANKING, None, count=kept)
    assert tried == [10, *range(1, kept + 1)]


def test_all_prompts_stay_if_no_cut_holds_and_a_cut_may_raise_accuracy() -> None:
    assert _cut([[1.0] * 5] * 2, 0.5, steps=5) == ([[1] * 5] * 2, [10, 2, 4, 6, 8])
    assert _cut([[40, -1, -1, -1, -1], [-1] * 5], 0, steps=10)[0] == [[1, 0, 0, 0, 0], [0] * 5]
    with pytest.raises(UsageError, match="max_drop=-1"):
        _cut(WORTH, -1)


def test_the_cut_is_ranked_within_its_scope() -> None:
    one_of_each = [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert _cut(WORTH, 100, "layer", steps=5)[0] == one_of_each
    assert _cut(WORTH, 100, "stage", stages=[0, 1], steps=5)[0] == one_of_each
    assert _cut(WORTH, 100, "stage", stages=[0, 0], steps=5)[0] == [[1, 1, 0, 0, 0], [0] * 5]

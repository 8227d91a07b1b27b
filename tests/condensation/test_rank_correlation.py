import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcvpt.condensation.rank_correlation import rank_correlation


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1000], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3], [1, 3, 2], 0.5),  # 1 - 6 * 2 / (3 * 8)
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 * 4 / (5 * 24)
        # Ranks 1.5, 1.5, 3 against 1, 2, 3: covariance 1.5, variances 1.5 and 2.
        ([7, 7, 9], [1, 2, 3], 1.5 / math.sqrt(1.5 * 2)),
        # Ranks 1, 2.5, 2.5, 4 against 2.5, 1, 2.5, 4: 2.25 / 4.5.
        ([1, 2, 2, 3], [5, 4, 5, 6], 2.25 / 4.5),
    ],
)
def test_worked_by_hand(first: list[float], second: list[float], expected: float) -> None:
    result = rank_correlation(torch.tensor(first), torch.tensor(second))
    assert result == pytest.approx(expected, abs=1e-12)


def test_tables_are_ranked_as_a_whole() -> None:
    first = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert rank_correlation(first, torch.tensor([[1.0, 3.0], [2.0, 4.0]])) == pytest.approx(0.8)


def test_condensed_prompts_share_the_last_rank() -> None:
    gone = float("-inf")
    first, second = torch.tensor([gone, gone, 1.0, 2.0]), torch.tensor([0.0, 0.0, 1.0, 2.0])
    assert rank_correlation(first, second) == pytest.approx(1.0)


@pytest.mark.filterwarnings("ignore")
def test_a_constant_has_no_correlation() -> None:
    assert math.isnan(rank_correlation(torch.ones(4), torch.arange(4.0)))


rankings = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=12)


@settings(max_examples=60, deadline=None, database=None)
@given(rankings.filter(lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True))))
def test_only_the_order_counts(pairs: list[tuple[int, int]]) -> None:
    first, second = torch.tensor(pairs, dtype=torch.float64).T
    result = rank_correlation(first, second)
    assert -1 - 1e-9 <= result <= 1 + 1e-9
    assert rank_correlation(second, first) == pytest.approx(result)
    assert rank_correlation(first.exp(), second.pow(3)) == pytest.approx(result)
    assert rank_correlation(-first, second) == pytest.approx(-result)
    assert rank_correlation(first, first) == pytest.approx(1)

"""Scores by either half of the batches, found in the same pass as those of all."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.condensation import Method, score_prompts
from pcvpt.condensation.scoring import score_with_halves
from pcvpt.condensation.split_half import HalvedSum, rank_correlation, split_half_agreement

Batch = tuple[Tensor, Tensor]


@pytest.fixture
def batches(data: Batch) -> list[Batch]:
    return list(zip(*(part.double().split((2, 1, 3)) for part in data), strict=True))


@pytest.mark.parametrize(
    "method", ["gate_sample", "token_batch", "gradient_norm", "attention", "leave_one_out"]
)
def test_halves_are_what_every_other_batch_alone_scores(
    build: Any, batches: list[Batch], method: Method
) -> None:
    model = build().double()
    model.prompts.apply_mask([torch.tensor([True, True, False, True])] * 3)
    batches = [(x, y.long()) for x, y in batches]
    found = score_with_halves(model, batches, method)
    assert found.halves is not None
    for half, share in zip(found.halves, (batches[::2], batches[1::2]), strict=True):
        assert torch.equal(half, torch.stack(score_prompts(model, share, method)))
    assert not torch.equal(*found.halves)


def test_one_batch_or_no_data_have_no_halves(build: Any, data: Batch) -> None:
    model = build()
    assert score_with_halves(model, [data]).halves is None
    for method in ("magnitude", "random"):
        assert score_with_halves(model, [data, data], method).halves is None  # type: ignore[arg-type]


def test_the_whole_is_summed_in_the_order_of_the_batches() -> None:
    parts = [torch.randn(7) * 10**k for k in range(9)]
    total = HalvedSum(torch.device("cpu"))
    expected = parts[0]
    for number, part in enumerate(parts):
        total.add(part, 3)
        expected = expected + part if number else part
    whole, halves = total.means()
    assert torch.equal(whole, expected / torch.tensor(27.0, dtype=torch.float64))
    assert halves is not None
    torch.testing.assert_close(halves[0].float() * 15, torch.stack(parts[::2]).sum(0))
    torch.testing.assert_close(halves[1].float() * 12, torch.stack(parts[1::2]).sum(0))


def _of_two(which: int, sums: list[HalvedSum]) -> Callable[[Tensor], Tensor]:
    """Return an all_reduce for process ``which``, that sees what the other would send."""
    sent: list[list[Tensor]] = []
    for one in sums:
        values: list[Tensor] = []
        one.means(lambda value, to=values: (to.append(value.clone()), value)[1])  # type: ignore[misc]
        sent.append(values)
    turn = iter(range(len(sent[0])))

    def reduce(value: Tensor) -> Tensor:
        value += sent[1 - which][next(turn)]  # in place, as torch.distributed does
        return value

    return reduce


def test_a_process_with_one_batch_joins_in_and_no_sum_is_changed() -> None:
    sums = [HalvedSum(torch.device("cpu")) for _ in range(2)]
    for part in (1.0, 2.0, 4.0):
        sums[0].add(torch.tensor([part]).double(), 1)
    sums[1].add(torch.tensor([8.0]).double(), 1)
    for which in range(2):
        whole, halves = sums[which].means(_of_two(which, sums))
        assert halves is not None
        assert [float(v) for v in (whole, *halves)] == [15 / 4, 13 / 3, 2.0]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1000], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3], [1, 3, 2], 0.5),  # 1 - 6 * 2 / (3 * 8)
        # Ranks 1, 2.5, 2.5, 4 against 2.5, 1, 2.5, 4: 2.25 / 4.5.
        ([1, 2, 2, 3], [5, 4, 5, 6], 0.5),
        ([[1, 2], [3, 4]], [[1, 3], [2, 4]], 0.8),  # ranked as a whole
        ([1, 1, 1], [1, 2, 3], math.nan),
        ([1], [2], math.nan),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_rank_correlation_is_spearmans(first: Any, second: Any, expected: float) -> None:
    found = rank_correlation(torch.tensor(first).float(), torch.tensor(second).float())
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_agreement_is_that_of_kept_prompts_where_there_are_halves() -> None:
    first, second = torch.tensor([[1.0, 2, 3, -9]]), torch.tensor([[1.0, 3, 2, -8]])
    keep = first > 0
    assert split_half_agreement((first, second), keep) == pytest.approx(0.5)
    assert split_half_agreement((first, torch.ones(1, 4)), keep) is None
    assert split_half_agreement(None, keep) is None

"""Scores by either half of the batches, found in the same pass as those of all."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.condensation import Method, score_prompts
from pcvpt.condensation.scoring import rank_correlation, score_with_halves

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
    _, halves = score_with_halves(model, batches, method)
    for half, share in zip(halves, (batches[::2], batches[1::2]), strict=True):
        assert torch.equal(half, torch.stack(score_prompts(model, share, method)))
    assert not torch.equal(*halves)


def test_one_batch_or_no_data_have_no_halves(build: Any, data: Batch) -> None:
    model = build()
    assert score_with_halves(model, [data])[1] == []
    for method in ("magnitude", "random"):
        assert score_with_halves(model, [data, data], method)[1] == []  # type: ignore[arg-type]


def test_a_process_with_one_batch_joins_in_and_no_sum_is_changed(
    build: Any, batches: list[Batch]
) -> None:
    model = build().double()
    whole, halves = score_with_halves(model, [(x, y.long()) for x, y in batches])
    shares = [[(x, y.long()) for x, y in own] for own in (batches[:2], batches[2:])]
    sent: list[list[Tensor]] = [[], []]
    for share, values in zip(shares, sent, strict=True):

        def note(value: Tensor, to: list[Tensor] = values) -> Tensor:
            to.append(value.clone())
            return value

        score_with_halves(model, share, all_reduce=note)
    for share, others in zip(shares, sent[::-1], strict=True):
        turn = iter(others)
        # In place, as torch.distributed does.
        found = score_with_halves(model, share, all_reduce=lambda value: value.add_(next(turn)))  # noqa: B023
        torch.testing.assert_close(found[0], whole)
        torch.testing.assert_close(found[1], halves)


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

"""Scores by either half of the batches, found in the same pass as those of all."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from pcvpt import create_model, score_prompts
from pcvpt.condensation import Method
from pcvpt.condensation.scoring import score_with_halves
from pcvpt.condensation.split_half import HalvedSum

OF_DATA = [method for method in get_args(Method) if method not in ("magnitude", "random")]
Batch = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    model = create_model("vit_demo_patch8_32", 4, 3).double()
    keep = torch.ones_like(model.prompts.keep)
    keep[1, 2] = False
    model.prompts.apply_mask(list(keep))
    return model


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    torch.manual_seed(1)
    sizes = (3, 2, 4, 1, 2)
    return [(torch.randn(n, 3, 32, 32).double(), torch.arange(n) % 4) for n in sizes]


@pytest.mark.parametrize("method", OF_DATA)
def test_halves_are_what_every_other_batch_alone_scores(
    model: Any, batches: list[Batch], method: Method
) -> None:
    found = score_with_halves(model, batches, method)
    assert found.halves is not None
    for half, share in zip(found.halves, (batches[::2], batches[1::2]), strict=True):
        alone = torch.stack(score_prompts(model, share, method))
        assert torch.equal(half, alone)
        assert half[1, 2] == float("-inf")
    assert not torch.equal(*found.halves)


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_scores_that_look_at_no_data_have_no_halves(
    model: Any, batches: list[Batch], method: Method
) -> None:
    assert score_with_halves(model, batches, method).halves is None


def test_one_batch_has_no_halves(model: Any, batches: list[Batch]) -> None:
    assert score_with_halves(model, batches[:1]).halves is None


def test_the_whole_is_summed_in_the_order_of_the_batches() -> None:
    torch.manual_seed(2)
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

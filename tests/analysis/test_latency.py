import time

import pytest
import torch

from pcvpt.analysis.latency import Side, alternate, spread


def test_sides_take_turns_and_only_work_takes_time() -> None:
    calls: list[str] = []

    def slow() -> None:
        calls.append("a")
        time.sleep(0.02)

    def prepare() -> None:
        calls.append("p")
        time.sleep(0.03)

    sides = [Side(slow), Side(lambda: calls.append("b"), prepare)]
    first, second = alternate(sides, 3, torch.device("cpu"), warm=1)
    assert "".join(calls) == 4 * "apb"
    assert len(first) == len(second) == 3
    assert min(first) >= 0.02 > 0.01 > max(second)


def test_the_spread_is_median_and_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == pytest.approx((3.0, 2.0, 4.0))
    assert spread([7.0]) == (7.0, 7.0, 7.0)

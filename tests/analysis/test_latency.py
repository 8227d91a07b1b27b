import pytest
import torch

from pcvpt.analysis import latency
from pcvpt.analysis.latency import alternate, spread


def test_sides_take_turns_and_only_work_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = [0.0]

    def step(name: str, seconds: float) -> None:
        calls.append(name)
        clock[0] += seconds

    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])
    sides = {"a": lambda: step("a", 2), "b": lambda: step("b", 1)}
    prepare, between = (lambda name: step(f"p{name}", 3)), (lambda: step("-", 4))
    times = alternate(sides, 2, torch.device("cpu"), prepare=prepare, between=between)
    assert "".join(calls) == 3 * "paapbb-"
    assert times == {"a": [2.0] * 2, "b": [1.0] * 2}


def test_the_spread_is_median_and_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == pytest.approx((3.0, 2.0, 4.0))
    assert spread([7.0]) == (7.0, 7.0, 7.0)

from typing import Any

import pytest
import torch


def test_sides_take_turns_and_only_work_takes_time(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    clock = [0.0]

    def step(name: str, seconds: float) -> None:
        calls.append(name)
        clock[0] += seconds

    monkeypatch.setattr(benchmarks.timing.time, "perf_counter", lambda: clock[0])
    sides = {"a": lambda: step("a", 2), "b": lambda: step("b", 1)}
    device = torch.device("cpu")
    times = benchmarks.timing.alternate(sides, 2, device, between=lambda: step("-", 4))
    assert "".join(calls) == 3 * "ab-"
    assert times == {"a": [2.0] * 2, "b": [1.0] * 2}

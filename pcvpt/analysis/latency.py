"""How long forward passes take, turn by turn."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Side(NamedTuple):
    """One of several things whose times are compared.

    Attributes:
        work: what is timed.
        prepare: what is done before it, and takes no time.
    """

    work: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


class Spread(NamedTuple):
    """The median of several measurements, and the quartiles below and above it."""

    median: float
    low: float
    high: float


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long one call of ``work`` takes, to the end of what it leaves on a GPU."""
    _finish(device)
    start = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - start


def alternate(
    sides: Sequence[Side], repeats: int, device: torch.device, warm: int = 2
) -> list[list[float]]:
    """Return the seconds of each side in each of ``repeats`` rounds.

    In a round every side has its turn, so that whatever else the machine does falls on all of them.

    Args:
        sides: what to time.
        repeats: rounds that count, at least 1.
        device: to be waited for, before and after.
        warm: rounds before those, which do not count.
    """
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(warm + repeats):
        for side, taken in zip(sides, times, strict=True):
            side.prepare()
            elapsed = seconds(side.work, device)
            if turn >= warm:
                taken.append(elapsed)
    return times


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of ``values``, of which there is at least one."""
    quartiles = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64)
    return Spread(*torch.tensor(values, dtype=torch.float64).quantile(quartiles).tolist())


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

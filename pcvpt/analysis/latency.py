"""Latency of forward passes, measured in turns."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

Call = Callable[[], object]


class Spread(NamedTuple):
    """The median of several measurements, and the quartiles below and above it."""

    median: float
    low: float
    high: float


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call of ``work``, until a GPU has finished what it started."""
    _finish(device)
    start = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - start


def alternate(
    sides: Sequence[tuple[Call, Call]], repeats: int, device: torch.device, warm: int = 2
) -> list[list[float]]:
    """Return the seconds of each side in each of ``repeats`` rounds.

    Each side has its turn in every round, so that other work on the machine slows all of them.

    Args:
        sides: Pairs of a function that prepares and is not timed, and one that is timed.
        repeats: Number of rounds that count, at least 1.
        device: Device on which they compute.
        warm: Number of rounds before those, which do not count. Default: 2.
    """
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(warm + repeats):
        for (prepare, work), taken in zip(sides, times, strict=True):
            prepare()
            elapsed = seconds(work, device)
            if turn >= warm:
                taken.append(elapsed)
    return times


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of ``values``, of which there is at least one."""
    return Spread(*np.quantile(values, (0.5, 0.25, 0.75)).tolist())


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

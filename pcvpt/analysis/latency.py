"""Latency of forward passes, measured alternately."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch

Call = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


class Spread(NamedTuple):
    """The median of several measurements, and the quartiles below and above it."""

    median: float
    low: float
    high: float


def seconds(work: Call, device: torch.device) -> float:
    """Return the seconds of one call of ``work``, until a GPU has finished what it started."""
    _finish(device)
    start = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - start


def alternate(
    sides: Mapping[Name, Call],
    repeats: int,
    device: torch.device,
    *,
    warm: int = 1,
    prepare: Callable[[Name], object] = lambda name: None,
    between: Call = lambda: None,
) -> dict[Name, list[float]]:
    """Return the seconds of each side in each of ``repeats`` rounds.

    Each side has its turn in every round, so that other work on the machine slows all of them, and
    times of one round may be divided by each other.

    Args:
        sides: Functions to time, by name.
        repeats: Number of rounds that count, at least 1.
        device: Device on which they compute.
        warm: Number of rounds before those, which do not count. Default: 1.
        prepare: Function that is called with the name of a side before its turn, and not timed.
        between: Function that is called after every round, and not timed.
    """
    times: dict[Name, list[float]] = {name: [] for name in sides}
    for turn in range(warm + repeats):
        for name, work in sides.items():
            prepare(name)
            elapsed = seconds(work, device)
            if turn >= warm:
                times[name].append(elapsed)
        between()
    return times


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of ``values``, of which there is at least one."""
    return Spread(*np.quantile(values, (0.5, 0.25, 0.75)).tolist())


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""Seconds of calls that take turns, and the arithmetic peak of a device between their rounds."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

Call = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


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
        between: Function that is called after every round, and not timed.
    """
    times: dict[Name, list[float]] = {name: [] for name in sides}
    for turn in range(warm + repeats):
        for name, work in sides.items():
            elapsed = seconds(work, device)
            if turn >= warm:
                times[name].append(elapsed)
        between()
    return times


class Peak:
    """The best rate so far, in multiply-accumulates per second, of one large matrix product.

    Args:
        device: Device of the product.
        dtype: Type of both matrices.
        size: Rows and columns of both. The default is bound by arithmetic and takes little time.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, size: int | None = None) -> None:
        self.device = device
        size = size or (8192 if device.type == "cuda" else 2048)
        self._first, self._second = torch.randn(2, size, size, device=device).to(dtype)
        self.rate = 0.0

    def __call__(self) -> None:
        """Measure three times more."""
        for _ in range(3):
            taken = seconds(lambda: self._first @ self._second, self.device)
            self.rate = max(self.rate, len(self._first) ** 3 / taken)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

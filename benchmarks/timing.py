"""Times of sides that run turn by turn in one process, and the arithmetic peak between them."""

from collections.abc import Callable, Mapping

import torch

from pcvpt.analysis.latency import seconds

Work = Callable[[], object]


def alternate(
    sides: Mapping[str, Work],
    repeats: int,
    device: torch.device,
    between: Work | None = None,
    warm: bool = True,
) -> dict[str, list[float]]:
    """Return the seconds of each side in each of ``repeats`` rounds.

    In a round every side has its turn, so that whatever else the machine does falls on all of
    them, and times of one round may be divided by each other.

    Args:
        sides: Functions to call, by name.
        repeats: Number of rounds that count.
        device: Device to wait for.
        between: Function to call after every round, such as a :class:`Peak`.
        warm: Whether to run one round before, which does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + warm):
        for name, work in sides.items():
            taken = seconds(work, device)
            if repeat or not warm:
                times[name].append(taken)
        if between is not None:
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

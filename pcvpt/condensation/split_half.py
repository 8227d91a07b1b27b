"""A mean over batches, and the same over every other batch: how much the choice of data matters."""

from collections.abc import Callable

import torch
from torch import Tensor


class HalvedSum:
    """Sums over all batches, over the even ones, and over the odd ones, with their images.

    The whole is summed by itself, in the order of the batches: the two halves added up would differ
    from it in the last bits.

    Args:
        device: of the counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._total: Tensor | None = None
        self._halves: list[Tensor] = []
        self._counts = [torch.zeros((), dtype=torch.float64, device=device) for _ in range(3)]
        self._batches = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return self._total is None

    def add(self, part: Tensor, images: int) -> None:
        """Add ``part``, the sum over the next batch, of so many ``images``."""
        half = self._batches % 2
        if self._total is None:
            self._total = part
            self._halves = [part, torch.zeros_like(part)]
        else:
            self._total = self._total + part
            self._halves[half] = self._halves[half] + part
        for count in (self._counts[0], self._counts[1 + half]):
            count += images
        self._batches += 1

    def means(
        self, all_reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the mean over images, and those of both halves; None when one has no image.

        Args:
            all_reduce: sums a tensor over processes; each must have added something.
        """
        assert self._total is not None
        sums, counts = [self._total, *self._halves], self._counts
        if all_reduce is not None:
            # Clones: some reduce in place, and the first batch is the sum of two here.
            sums = [all_reduce(value.clone()) for value in sums]
            counts = [all_reduce(value.clone()) for value in counts]
        whole, even, odd = (value / count for value, count in zip(sums, counts, strict=True))
        return whole, (even, odd) if all(count > 0 for count in counts) else None

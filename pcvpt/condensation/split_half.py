"""Split-half agreement: the same mean over even and odd batches, and how far the two agree."""

import math
import warnings
from collections.abc import Callable

import torch
from scipy.stats import ConstantInputWarning, spearmanr
from torch import Tensor


class HalvedSum:
    """Sums over all batches, over the even ones, and over the odd ones.

    The sum over all batches is kept beside the two halves, in the order of the batches: adding the
    halves would give other last bits.

    Args:
        device: Device of the counts of images.
    """

    def __init__(self, device: torch.device) -> None:
        self._total: Tensor | None = None
        self._halves: list[Tensor] = []
        self._counts = [torch.zeros((), dtype=torch.float64, device=device) for _ in range(3)]
        self._batches = 0

    @property
    def is_empty(self) -> bool:
        """Whether no batch was added."""
        return self._total is None

    def add(self, part: Tensor, images: int) -> None:
        """Add ``part``, the sum over the next batch, which has this number of ``images``."""
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
        """Return the mean over images, and the means of both halves.

        Args:
            all_reduce: Function that sums a tensor over processes, each of which has added a batch.
                Default: there is one process.

        Returns:
            The mean over all images, and the pair of the halves' means; None instead of the pair
            when a half has no images.
        """
        assert self._total is not None
        sums, counts = [self._total, *self._halves], self._counts
        if all_reduce is not None:
            # Clones: some functions reduce in place, and the first batch is part of two sums here.
            sums = [all_reduce(value.clone()) for value in sums]
            counts = [all_reduce(value.clone()) for value in counts]
        mean, even, odd = (value / count for value, count in zip(sums, counts, strict=True))
        return mean, (even, odd) if all(count > 0 for count in counts) else None


def split_half_agreement(halves: tuple[Tensor, Tensor] | None, keep: Tensor) -> float | None:
    """Return the rank correlation between the scores of both halves, over the prompts of ``keep``.

    None when there are no halves, or when one half scores all prompts alike.
    """
    if halves is None:
        return None
    found = rank_correlation(halves[0][keep], halves[1][keep])
    return found if math.isfinite(found) else None


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation of two tensors of one shape; NaN if one is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(*(x.flatten().cpu().numpy() for x in (first, second))).statistic)

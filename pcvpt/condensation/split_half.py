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
        self._sums: list[Tensor] = []  # over all batches, the even ones, and the odd ones
        self._counts = torch.zeros(3, dtype=torch.float64, device=device)
        self._batches = 0

    @property
    def is_empty(self) -> bool:
        """Whether no batch was added."""
        return not self._sums

    def add(self, part: Tensor, images: int) -> None:
        """Add ``part``, the sum over the next batch, which has this number of ``images``."""
        changed = (0, 1 + self._batches % 2)
        if not self._sums:
            self._sums = [part, part, torch.zeros_like(part)]
        else:
            for which in changed:
                self._sums[which] = self._sums[which] + part
        self._counts[list(changed)] += images
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
        sums, counts = self._sums, self._counts
        if all_reduce is not None:
            # Clones: some functions reduce in place, and the first batch is part of two sums here.
            sums = [all_reduce(value.clone()) for value in sums]
            counts = all_reduce(counts.clone())
        mean, even, odd = (value / count for value, count in zip(sums, counts, strict=True))
        return mean, (even, odd) if bool((counts > 0).all()) else None


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

"""Orders in which processes read images."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DistributedSampler
from typing_extensions import override

PADDING = -1
"""An index for which a data set gives some image with the label ``IGNORED``."""

IGNORED = -100
"""The label of an image that counts for nothing; cross-entropy leaves it out by itself."""


class EpochSampler(DistributedSampler[Any]):
    """A ``DistributedSampler`` that yields (epoch, index), so that workers know the epoch too.

    Each process takes every world-size-th index of one common order. Hence the batches at one
    step, taken together, are those of a single process with the whole batch.
    """

    @override
    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in super().__iter__():
            yield self.epoch, index


class OnceSampler(DistributedSampler[Any]):
    """Each index once over all processes, in order, then ``PADDING`` up to equal numbers.

    Torch's own pads with further images, which are then counted twice; and with fewer batches on
    some process, those that exchange something in each batch would wait for it for ever.
    """

    @override
    def __iter__(self) -> Iterator[int]:
        there = range(self.rank, len(self.dataset), self.num_replicas)  # type: ignore[arg-type]
        yield from there
        for _ in range(self.num_samples - len(there)):
            yield PADDING

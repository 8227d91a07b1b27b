"""Orders in which processes read images."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
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


def begin_epoch(trainer: pl.Trainer, epoch: int, resumed: bool) -> None:
    """Let the training images come in the order of ``epoch``; for ``on_train_epoch_start``.

    Args:
        trainer: whose loader is meant, if it has a sampler that knows of epochs.
        epoch: which need not be the trainer's own.
        resumed: whether it is the first of a run that was resumed.
    """
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return
    sampler.set_epoch(epoch)
    fetcher = trainer.fit_loop._data_fetcher
    if resumed and fetcher is not None:
        # Lightning uses the iterator that it made before it knew of the epoch. By then, worker
        # processes have begun to read in the order of the first.
        iter(fetcher)


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

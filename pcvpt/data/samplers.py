"""Orders in which processes read images."""

from collections.abc import Iterator
from itertools import islice
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

    _next: tuple[int, int] | None = None

    def begin(self, epoch: int, start: int = 0) -> None:
        """Let the next iteration be that of ``epoch``, from image ``start`` of this process on."""
        self._next = epoch, start

    @override
    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Lightning sets the epoch, too, and to another where several fine-tunings take turns.
        (epoch, start), self._next = self._next or (self.epoch, 0), None
        self.set_epoch(epoch)
        for index in islice(super().__iter__(), start, None):
            yield epoch, index


def begin_epoch(trainer: pl.Trainer, epoch: int, resumed: int | None) -> None:
    """Let the training images come in the order of ``epoch``; for ``on_train_epoch_start``.

    Args:
        trainer: whose loader is meant, if it has a sampler that knows of epochs.
        epoch: which need not be the trainer's own.
        resumed: batches of it that were trained before the run was resumed in it, if it was.
    """
    loader: Any = trainer.train_dataloader
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, EpochSampler):
        sampler.begin(epoch, (resumed or 0) * loader.batch_size)
    elif isinstance(sampler, DistributedSampler):
        sampler.set_epoch(epoch)
    else:
        return
    fetcher = trainer.fit_loop._data_fetcher
    if resumed is not None and fetcher is not None:
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

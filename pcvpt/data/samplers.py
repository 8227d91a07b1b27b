"""The order in which each process reads images."""

from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DistributedSampler
from typing_extensions import override

PADDING = -1
"""The index for which a data set gives an arbitrary image with the label ``IGNORED``."""

IGNORED = -100
"""The label of an image that is not counted; cross-entropy leaves it out by itself."""


class EpochSampler(DistributedSampler[Any]):
    """A ``DistributedSampler`` that yields (epoch, index), so that workers know the epoch too.

    Each process takes every world-size-th index of one common order. So the batches at one
    step, taken together, are those of a single process with the whole batch.
    """

    _next: tuple[int, int] | None = None

    def begin(self, epoch: int, start: int = 0) -> None:
        """Set the epoch of the next iteration, and this process's image at which it starts."""
        self._next = epoch, start

    @override
    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Lightning sets the epoch too, to a different one when several fine-tunings take turns.
        (epoch, start), self._next = self._next or (self.epoch, 0), None
        self.set_epoch(epoch)
        for index in islice(super().__iter__(), start, None):
            yield epoch, index


def begin_epoch(trainer: pl.Trainer, epoch: int, resumed: int | None) -> None:
    """Set the order of the training images to that of ``epoch``; for ``on_train_epoch_start``.

    The epoch may differ from the trainer's. ``resumed`` is the number of batches of it that were
    trained before the run was resumed. None means that it was not resumed in this epoch.
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
        # Lightning uses the iterator that it made before the epoch was set. By then, worker
        # processes have begun to read in the order of the first epoch.
        iter(fetcher)


class OnceSampler(DistributedSampler[Any]):
    """Each index once over all processes, in order, then ``PADDING`` up to equal numbers.

    Torch's own sampler pads with repeated images, which are then counted twice. Without padding
    some process would have fewer batches, and the others would wait for it forever wherever they
    exchange something in each batch.
    """

    @override
    def __iter__(self) -> Iterator[int]:
        indices = range(self.rank, len(self.dataset), self.num_replicas)  # type: ignore[arg-type]
        return chain(indices, repeat(PADDING, self.num_samples - len(indices)))

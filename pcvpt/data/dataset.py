"""Items as tensors, and an order and augmentation that depend on (seed, epoch, index) alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler
from typing_extensions import override

from pcvpt.data.images import load
from pcvpt.data.splits import Item

Transform = Callable[[Image.Image], Tensor]


class EpochSampler(DistributedSampler[Any]):
    """A ``DistributedSampler`` that yields (epoch, index), so that workers know the epoch too.

    Each process takes every world-size-th index of one common order. Hence the batches at one
    step, taken together, are those of a single process with the whole batch.
    """

    @override
    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in super().__iter__():
            yield self.epoch, index


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """``items`` as (image (3, h, w), label).

    The key (epoch, index) draws the augmentation from (``seed``, epoch, index) and leaves torch's
    generator as it was: neither workers, their number, nor a resumed run change what is drawn.
    A plain index is for a ``transform`` without randomness.
    """

    def __init__(self, items: Sequence[Item], transform: Transform, seed: int = 0) -> None:
        self.items = items
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.items)

    @override
    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int]:
        if isinstance(key, int):
            return self._read(key)
        epoch, index = key
        with _randomness_of(self.seed, epoch, index):
            return self._read(index)

    def _read(self, index: int) -> tuple[Tensor, int]:
        source, label = self.items[index]
        return self.transform(load(source)), label


class NamedImages(Dataset[tuple[Tensor, str]]):
    """``items`` as (image (3, h, w), name); the name is the file, or the number of an array."""

    def __init__(self, items: Sequence[Item], transform: Transform) -> None:
        self.items = items
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        source = self.items[index].source
        name = str(source) if isinstance(source, Path) else str(index)
        return self.transform(load(source)), name


@contextmanager
def _randomness_of(*numbers: int) -> Iterator[None]:
    """Seed torch's CPU generator by ``numbers`` and give it back unchanged."""
    state = torch.default_generator.get_state()
    (seed,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    try:
        # torch.manual_seed would reset the GPUs' generators as well.
        torch.default_generator.manual_seed(int(seed))
        yield
    finally:
        torch.default_generator.set_state(state)

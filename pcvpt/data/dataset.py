"""Items as uint8 tensors, with an augmentation that depends on (seed, epoch, index) alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from pcvpt.data.image_files import load
from pcvpt.data.pixel_cache import Pixels
from pcvpt.data.samplers import IGNORED, PADDING
from pcvpt.data.splits import Item, Record
from pcvpt.data.transforms import Preprocessing

Batch = tuple[Tensor, Tensor]
Key = int | tuple[int, int]
_T = TypeVar("_T")


class LabelledImages(Dataset[Batch]):
    """``items`` in batches of (images uint8 (b, 3, h, w), labels (b,)), not yet normalised.

    The key (epoch, index) draws the augmentation from a generator of its own, seeded by (``seed``,
    epoch, index): neither workers, their number, nor a resumed run change what is drawn.
    A plain index gives the image as in evaluation; ``PADDING`` some image labelled ``IGNORED``.

    Args:
        items: the images and their labels.
        steps: resizing and cutting.
        seed: of the augmentation.
        pixels: the images of ``items`` resized already, in their order, where there is a cache.
    """

    def __init__(
        self,
        items: Sequence[Item],
        steps: Preprocessing,
        seed: int = 0,
        pixels: Pixels | None = None,
    ) -> None:
        self.items = items
        self.steps = steps
        self.seed = seed
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.items)

    @override
    def __getitem__(self, key: Key) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Return a whole batch; a loader calls this by itself and needs ``collate_fn=whole``."""
        numbers = [key if isinstance(key, int) else key[1] for key in keys]
        labels = [self.items[n].label if n != PADDING else IGNORED for n in numbers]
        return self._images(keys, numbers), torch.tensor(labels)

    def _images(self, keys: Sequence[Key], numbers: Sequence[int]) -> Tensor:
        numbers = [0 if n == PADDING else n for n in numbers]
        random = self.steps.augment and any(not isinstance(key, int) for key in keys)
        if self.pixels is not None and self.steps.resize == "squash" and not random:
            at_once = self.pixels.batch(numbers)
            if at_once is not None:
                return at_once
        return torch.stack([self._cut(*pair) for pair in zip(keys, numbers, strict=True)])

    def _cut(self, key: Key, number: int) -> Tensor:
        image = self._resized(number)
        if isinstance(key, int) or not self.steps.augment:
            return self.steps.cut(image)
        return self.steps.cut(image, np.random.default_rng([self.seed, *key]))

    def _resized(self, number: int) -> Tensor:
        if self.pixels is not None:
            return self.pixels[number]
        return self.steps.resized(load(self.items[number].source))


class NamedImages(Dataset[tuple[Tensor, str]]):
    """``items`` as (image uint8 (3, h, w), name); the name is the file, or an array's number."""

    def __init__(self, items: Sequence[Item], steps: Preprocessing) -> None:
        self.items = items
        self.steps = steps

    def __len__(self) -> int:
        return len(self.items)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        source = self.items[index].source
        if isinstance(source, Path):
            name = str(source)
        else:
            name = source.name if isinstance(source, Record) else str(index)
        return self.steps.cut(self.steps.resized(load(source))), name


def whole(batch: _T) -> _T:
    """Collate what is a batch already."""
    return batch

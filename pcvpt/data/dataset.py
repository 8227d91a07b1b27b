"""Datasets of uint8 images, with an augmentation that depends on (seed, epoch, index) alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from pcvpt.data.image_files import load, name_of
from pcvpt.data.pixel_cache import Pixels
from pcvpt.data.samplers import IGNORED, PADDING
from pcvpt.data.splits import Item
from pcvpt.data.transforms import Preprocessing

Batch = tuple[Tensor, Tensor]
Key = int | tuple[int, int]


@dataclass(eq=False, repr=False)
class LabelledImages(Dataset[Batch]):
    """Labelled images in batches of (images uint8 (b, 3, h, w), labels (b,)), not normalised.

    A key is an index, or a pair (epoch, index). A plain index gives the image as in evaluation,
    and ``PADDING`` an arbitrary image with the label ``IGNORED``. A pair draws the augmentation
    from a separate generator, seeded by (``seed``, epoch, index), so that neither the number of
    workers nor resuming a run changes it.
    """

    items: Sequence[Item]
    steps: Preprocessing  # of which the resizing and cutting are done here
    seed: int = 0
    pixels: Pixels | None = None  # cache of the resized images of ``items``, in their order

    def __len__(self) -> int:
        return len(self.items)

    @override
    def __getitem__(self, key: Key) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Return a batch; a loader calls this by itself and must not collate it again."""
        numbers = [key if isinstance(key, int) else key[1] for key in keys]
        labels = torch.tensor([self.items[n].label if n != PADDING else IGNORED for n in numbers])
        numbers = [0 if n == PADDING else n for n in numbers]
        random = self.steps.augment and any(not isinstance(key, int) for key in keys)
        if self.pixels is not None and not random:
            batch = self.pixels.batch(numbers)
            if batch is not None and batch.shape[2:] == self.steps.size:
                return batch, labels
        return torch.stack([self._cut(*pair) for pair in zip(keys, numbers, strict=True)]), labels

    def _cut(self, key: Key, number: int) -> Tensor:
        if self.pixels is None:
            image = self.steps.resized(load(self.items[number].source))
        else:
            image = self.pixels[number]
        draw = None if isinstance(key, int) else np.random.default_rng([self.seed, *key])
        return self.steps.cut(image, draw)


@dataclass(eq=False, repr=False)
class NamedImages(Dataset[tuple[Tensor, str]]):
    """Images as (image uint8 (3, h, w), name): a file or record's name, or an array's index."""

    items: Sequence[Item]
    steps: Preprocessing

    def __len__(self) -> int:
        return len(self.items)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        source = self.items[index].source
        name = str(index) if isinstance(source, np.ndarray) else name_of(source)
        return self.steps.cut(self.steps.resized(load(source))), name

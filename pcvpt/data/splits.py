"""What a task consists of: labelled images in three splits, and the rule that divides one off."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pcvpt.errors import UsageError


class Store(Protocol):
    """A file that holds many images. It opens lazily and pickles without its handles."""

    def __getitem__(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return an image as the bytes of an image file, or as pixels (h, w) or (h, w, 3)."""


@dataclass(frozen=True)
class Record:
    """One image in a store; ``name`` tells people which."""

    store: Store
    index: int
    name: str

    def read(self) -> bytes | NDArray[np.uint8]:
        """Return the image as the store holds it."""
        return self.store[self.index]


Source = Path | NDArray[np.uint8] | Record
"""Where an image comes from: a file, pixels of shape (h, w) or (h, w, 3), a record in a store."""


class Item(NamedTuple):
    """One image and its label, an index into ``Splits.class_names``."""

    source: Source
    label: int


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of a task. Labels of all three splits follow the one map built from train.

    ``test`` is empty when the user has no test images.
    """

    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    class_names: tuple[str, ...]


def divide(
    items: Sequence[Item], class_names: Sequence[str], fraction: float, seed: int
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Divide ``items`` into (train, val), class by class and reproducibly.

    Of each class about ``fraction`` (in (0, 1)) goes to val, at least one image and never all.
    A class is divided by ``seed`` and its own images alone, whatever the other classes hold.

    Raises:
        UsageError: for a fraction outside (0, 1), a negative seed, or a class with a single image.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"val_fraction is {fraction}, but must lie between 0 and 1")
    if seed < 0:
        raise UsageError(f"split_seed is {seed}, but must be 0 or more")
    positions = defaultdict(list)
    for position, item in enumerate(items):
        positions[item.label].append(position)
    chosen: set[int] = set()
    for label, members in positions.items():
        if len(members) == 1:
            raise UsageError(
                f"class {class_names[label]!r} has one training image, which cannot be divided "
                f"into train and val ({items[members[0]].source}); add images or give a val split"
            )
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        order = np.random.default_rng([seed, label]).permutation(members)
        chosen.update(order[:count].tolist())
    train = tuple(item for position, item in enumerate(items) if position not in chosen)
    val = tuple(item for position, item in enumerate(items) if position in chosen)
    return train, val

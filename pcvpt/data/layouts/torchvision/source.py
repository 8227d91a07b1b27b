"""A data set before the sub-splits of VTAB-1k are cut from it, and helpers that read it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcvpt.data.layouts.base import require_classes
from pcvpt.data.splits import Item
from pcvpt.data.tasks.table import Task


class SourceSplit(NamedTuple):
    """One split of a data set.

    ``read`` gives the images and labels at some positions in ``keys``. It reads no more than it
    must, because most positions are never needed.
    """

    file: Path  # that lists the images, for errors
    keys: Sequence[str | int]  # as TFDS's builder yields them
    read: Callable[[Sequence[int]], dict[int, Item]]


class SourceData(NamedTuple):
    """A data set with the splits that TFDS gives it, by the names that TFDS uses."""

    splits: dict[str, SourceSplit]
    class_names: tuple[str, ...] | None = None  # None for numbers
    notes: tuple[str, ...] = ()  # known differences from TFDS's images or splits


def one_by_one(file: Path, keys: Sequence[str | int], item: Callable[[int], Item]) -> SourceSplit:
    """Return a split of which ``item`` reads the image and label at one position in ``keys``."""
    return SourceSplit(file, keys, lambda positions: {at: item(at) for at in positions})


def listed(file: Path, items: Mapping[str, Item]) -> SourceSplit:
    """Return a split of the images that ``file`` lists, by their keys."""
    return one_by_one(file, list(items), list(items.values()).__getitem__)


def from_arrays(file: Path, pixels: NDArray[np.uint8], labels: Sequence[int]) -> SourceSplit:
    """Return a split of pixels, (n, h, w) or (n, h, w, 3), whose keys are their positions."""
    return one_by_one(
        file, range(len(labels)), lambda at: Item(np.array(pixels[at], order="C"), labels[at])
    )


def labels_by_name(names: Sequence[str], task: Task, where: Path) -> dict[str, int]:
    """Return the label of each class, numbered in the order of the names.

    All classes must be there, because a missing one would shift the labels of others.
    """
    distinct = sorted(set(names))
    require_classes(len(distinct), task, where)
    return {name: label for label, name in enumerate(distinct)}

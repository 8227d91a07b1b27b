"""Labelled images in three splits, and the rule that takes val from train."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pcvpt.errors import UsageError


class Store(Protocol):
    """A file that holds many images. It opens on first use and pickles without its handles."""

    def __getitem__(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return an image as the bytes of an image file, or as pixels (h, w) or (h, w, 3)."""


@dataclass(frozen=True)
class Record:
    """One image in a store."""

    store: Store
    index: int
    name: str  # of the image, in messages

    def __str__(self) -> str:
        return self.name


Source = Path | NDArray[np.uint8] | Record
"""Where an image comes from: a file, pixels of shape (h, w) or (h, w, 3), a record in a store."""


class Item(NamedTuple):
    """One image and its label, an index into the names of the classes."""

    source: Source
    label: int


class Classes(NamedTuple):
    """Classes of a model."""

    names: tuple[str, ...]  # in the order of the labels
    task: str | None = None  # whose labels are the same in every layout


class _Labelled:
    """Images in splits, whose labels are indices into the names of the classes."""

    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.class_names)
        for name in ("train", "val", "test"):
            for source, label in getattr(self, name) or ():
                if not 0 <= label < count:
                    raise UsageError(
                        f"{name}: {source!s:.200} has the label {label}, but there are {count} "
                        f"classes; number them from 0 to {count - 1}"
                    )


@dataclass(frozen=True, eq=False)
class Splits(_Labelled):
    """The images of a task. Labels of all three splits follow the one map built from train.

    A label that is not the index of a class is a ``UsageError``.
    """

    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]  # empty if there are none
    class_names: tuple[str, ...]  # in the order of the labels

    def labelled_by(self, names: tuple[str, ...]) -> "Splits":
        """Return the same images, labelled by the places of their classes in ``names``."""
        if names == self.class_names:
            return self
        labels = [names.index(name) for name in self.class_names]
        train, val, test = (
            tuple(Item(item.source, labels[item.label]) for item in items)
            for items in (self.train, self.val, self.test)
        )
        return Splits(train, val, test, names)


@dataclass(frozen=True, eq=False)
class TaskSplits(_Labelled):
    """The images of a task as files give them."""

    train: tuple[Item, ...]
    val: tuple[Item, ...] | None  # None where the files do not name any
    test: tuple[Item, ...]
    class_names: tuple[str, ...]  # in the order of the labels
    source: str = ""  # layout, version and folder, as text for users and records
    notes: tuple[str, ...] = ()  # such as known differences from the published images
    groups: Mapping[Any, str] = field(default_factory=dict)  # of images that a fold keeps together

    def divided(
        self, fraction: float, seed: int, fold: str | None = None, shots: int | None = None
    ) -> Splits:
        """Return the splits, with val divided off train if it is missing; see ``divide``.

        With ``fold``, train and val together are divided anew, see ``take_fold``. With ``shots``,
        as many images of each class stay in train, see ``take_shots``.
        """
        train, val = self.train, self.val
        if fold is not None:
            train, val = take_fold((*train, *(val or ())), fold, seed, self.groups)
        elif val is None:
            train, val = divide(train, self.class_names, fraction, seed)
        if shots is not None:
            train = take_shots(train, self.class_names, shots, seed)
        return Splits(train, val, self.test, self.class_names)


def take_fold(
    items: Sequence[Item], fold: str, seed: int, groups: Mapping[Any, str] | None = None
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Divide ``items`` into (train, val), where val is one of n folds: "0/5" is the first of five.

    Each image is in the val of one fold. The folds have the classes in equal parts, as far as their
    numbers of images allow, and depend on ``seed``. Images of one group (by their source in
    ``groups``) are in the same fold.

    Raises:
        UsageError: If ``fold`` is none, there are fewer images or groups than folds, or an image
            has no group while others have.
    """
    number, _, count = fold.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count) > 1):
        raise UsageError(f"fold is {fold!r}; give its number and their number, from 0/5 to 4/5")
    if len(items) < int(count):
        raise UsageError(f"fold is {fold}, but there are {len(items)} images; give fewer folds")
    if groups:
        folds = _folds_of_groups([groups.get(item.source) for item in items], items, count, seed)
        return parted(items, set(np.flatnonzero(folds == int(number)).tolist()))
    order = np.random.default_rng(seed).permutation(len(items))
    by_class = sorted(order.tolist(), key=lambda position: items[position].label)
    chosen = set(by_class[int(number) :: int(count)])
    return parted(items, chosen)


def _folds_of_groups(
    groups: Sequence[str | None], items: Sequence[Item], count: str, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each image. Groups whose classes are least even are given out first.

    Each group goes to the fold after which the parts of the classes differ least between folds.
    """
    if None in groups:
        raise UsageError(f"{items[groups.index(None)].source}: no group, but other images have one")
    names, of_group = np.unique(np.array(groups), return_inverse=True)
    if len(names) < int(count):
        raise UsageError(f"fold is of {count}, but there are {len(names)} groups; give fewer folds")
    labels = np.array([item.label for item in items])
    counts = np.zeros((len(names), labels.max() + 1))
    np.add.at(counts, (of_group, labels), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    filled, folds = np.zeros((int(count), counts.shape[1])), np.zeros(len(names), np.int64)
    for group in order[np.argsort(-counts[order].std(1), kind="stable")]:
        tried = filled + np.eye(int(count))[:, :, None] * counts[group]  # (fold, folds, classes)
        parts = tried / np.maximum(counts.sum(0), 1)
        folds[group] = np.lexsort((tried.sum(2).max(1), parts.std(1).mean(1).round(12)))[0]
        filled[folds[group]] += counts[group]
    return folds[of_group]


def take_shots(
    items: Sequence[Item], class_names: Sequence[str], shots: int, seed: int
) -> tuple[Item, ...]:
    """Return ``shots`` images of each class, drawn by ``seed``, in the order of ``items``.

    Raises:
        UsageError: If a class has fewer.
    """
    positions = by_label(items)
    least = min(positions, key=lambda label: len(positions[label]))
    if not 1 <= shots <= len(positions[least]):
        raise UsageError(
            f"shots is {shots}, but class {class_names[least]!r} has {len(positions[least])} "
            f"training images; give 1 to {len(positions[least])}"
        )
    drawn = (
        np.random.default_rng([seed, label]).permutation(members)[:shots]
        for label, members in positions.items()
    )
    return parted(items, {int(position) for of_class in drawn for position in of_class})[1]


def by_label(items: Sequence[Item]) -> dict[int, list[int]]:
    """Return the positions of the images of each label."""
    positions = defaultdict(list)
    for position, item in enumerate(items):
        positions[item.label].append(position)
    return positions


def parted(items: Sequence[Item], chosen: set[int]) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Return the other items, and those at the positions ``chosen``."""
    rest = tuple(item for position, item in enumerate(items) if position not in chosen)
    return rest, tuple(item for position, item in enumerate(items) if position in chosen)


def divide(
    items: Sequence[Item], class_names: Sequence[str], fraction: float, seed: int
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Divide ``items`` into (train, val), class by class and reproducibly.

    The division of a class depends on ``seed`` (0 or more) and its own images alone, not on other
    classes. ``fraction`` is the part of each class that goes to val, in (0, 1). At least one image
    goes to val and at least one stays in train.

    Raises:
        UsageError: If the fraction or seed is out of range, or a class has a single image.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"val_fraction is {fraction}, but must lie between 0 and 1")
    if seed < 0:
        raise UsageError(f"split_seed is {seed}, but must be 0 or more")
    chosen: set[int] = set()
    for label, members in by_label(items).items():
        if len(members) == 1:
            raise UsageError(
                f"class {class_names[label]!r} has one training image, which cannot be divided "
                f"into train and val ({items[members[0]].source}); add images or give a val split"
            )
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        order = np.random.default_rng([seed, label]).permutation(members)
        chosen.update(order[:count].tolist())
    return parted(items, chosen)

"""A data set before it is cut: the key of every image, and how to get at one of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import DirEntry, scandir
from pathlib import Path

from pcvpt.data.splits import Item
from pcvpt.errors import UsageError


@dataclass(frozen=True, eq=False)
class RawSplit:
    """One split.

    Args:
        keys: of its images as TFDS's builder yields them.
        items: the images and labels at positions in ``keys``; it reads no more than it must, for
            most positions are never asked for.
    """

    keys: Sequence[str | int]
    items: Callable[[Sequence[int]], Sequence[Item]]


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set by the names that TFDS gives its splits.

    Args:
        splits: by name.
        class_names: of the labels; None where they have none but numbers.
        notes: how images or splits may differ from TFDS's.
    """

    splits: dict[str, RawSplit]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = field(default=())


def split_of_items(keys: Sequence[str | int], item: Callable[[int], Item]) -> RawSplit:
    """Return a split whose images are got at one by one."""
    return RawSplit(keys, lambda positions: [item(position) for position in positions])


def read_text(file: Path) -> str:
    """Return the text of a file.

    Raises:
        UsageError: if it is missing or not text.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); get the data set anew") from error


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file without blanks around them; empty lines stay.

    Raises:
        UsageError: if it is missing, not text, or empty.
    """
    lines = [line.strip() for line in read_text(file).rstrip().split("\n")]
    if not any(lines):
        raise UsageError(f"{file}: empty; get the data set anew")
    return lines


def names_in(folder: Path, suffix: str) -> list[str]:
    """Return the names of the files in a folder that end in ``suffix``, sorted.

    Hidden ones, such as those macOS leaves behind, are passed over.

    Raises:
        UsageError: if the folder cannot be read, or there are none.
    """
    return _entries(folder, lambda each: not each.is_dir() and each.name.endswith(suffix), suffix)


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones.

    Raises:
        UsageError: if the folder cannot be read, or there are none.
    """
    return _entries(folder, lambda each: each.is_dir(), "folders")


def _entries(folder: Path, wanted: Callable[[DirEntry[str]], bool], kind: str) -> list[str]:
    try:
        with scandir(folder) as entries:
            found = [each.name for each in entries if wanted(each) and each.name[0] != "."]
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error}); get the data set anew") from error
    if not found:
        raise UsageError(f"{folder}: no {kind} in it; get the data set anew")
    return sorted(found)


def existing(path: Path, where: str) -> Path:
    """Return ``path``.

    Args:
        path: of an image.
        where: it is listed, for the error.

    Raises:
        UsageError: if there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"{where}: image {path} does not exist; get the data set anew")
    return path


def class_map(names: Sequence[str], num_classes: int, where: Path) -> dict[str, int]:
    """Return the labels of classes that are numbered in the order of their names.

    Raises:
        UsageError: if there are not ``num_classes`` names, for one that lacks would shift others.
    """
    distinct = sorted(set(names))
    if len(distinct) != num_classes:
        raise UsageError(
            f"{where}: {len(distinct)} classes, but the data set has {num_classes}; get it anew"
        )
    return {name: label for label, name in enumerate(distinct)}


def check_label(label: int, num_classes: int, file: Path) -> int:
    """Return ``label``.

    Raises:
        UsageError: if it is not in [0, ``num_classes``), naming the ``file`` that it is from.
    """
    if not 0 <= label < num_classes:
        raise UsageError(
            f"{file}: label {label} is not in 0..{num_classes - 1}; get the data set anew"
        )
    return label

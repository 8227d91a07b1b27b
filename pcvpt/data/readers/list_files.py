"""List files: one image per line, ``path label``, the path relative to a root folder."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pcvpt.data.readers.class_ids import ClassIds, checked_ids, listed_splits
from pcvpt.data.readers.listed_images import read_text
from pcvpt.data.splits import TaskSplits
from pcvpt.errors import UsageError

_EXPECTED = "lines of 'path label'"


def read_list_splits(images: Path, train: Path, val: Path | None, test: Path | None) -> TaskSplits:
    """Read list files into splits, see ``listed_splits``; paths are relative to ``images``.

    Raises:
        UsageError: As ``read_list`` and ``listed_splits``.
    """
    return listed_splits(partial(read_list, root=images), train, val, test)


def read_list(file: Path, root: Path, num_classes: int | None = None) -> ClassIds:
    """Read the labels in ``file``, unchanged, by image path in the file's order.

    The label is what follows the last blank, so paths may contain blanks. Blank lines, Windows
    line ends and a byte order mark are accepted.

    Args:
        file: List file.
        root: Folder that the paths in the file are relative to.
        num_classes: Number of classes. If given, the labels must lie below it.

    Raises:
        UsageError: If the file is missing, empty or not UTF-8, if a line has no label, or if its
            image does not exist. Also as ``checked_ids``. The error names the file and line.
    """
    return checked_ids(file, _entries(file, root), _EXPECTED, num_classes)


def _entries(file: Path, root: Path) -> Iterator[tuple[str, Path, str]]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        fields = line.rsplit(maxsplit=1)
        if not fields:
            continue
        place = f"{file}:{number}"
        if len(fields) == 1:
            raise UsageError(f"{place}: {fields[0]!r} is one field; expected {_EXPECTED}")
        path = root / fields[0].strip()
        if not os.path.isfile(path):  # unlike Path.is_file, False also for impossible names
            raise UsageError(
                f"{place}: image {path} does not exist; correct the line or the root folder"
            )
        yield place, path, fields[1]

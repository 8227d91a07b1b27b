"""List files: one image per line, ``path label``, the path relative to a root folder."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pcvpt.data.readers.listed_images import read_text
from pcvpt.data.splits import Item, Splits, divide
from pcvpt.errors import UsageError

# int() alone would also take "1_000", other scripts' digits, and refuse very long numbers.
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def read_list(file: Path, root: Path, num_classes: int | None = None) -> dict[Path, int]:
    """Read the labels in ``file`` as they stand there, by image path in the file's order.

    The label is what follows the last blank, so paths may contain blanks. Blank lines, Windows
    line ends and a byte order mark are accepted. With ``num_classes`` labels must be below it.

    Raises:
        UsageError: naming file and line, for a line without a label, a label that is not an
            integer, is negative or too large, a path listed twice, and an image that does not
            exist; naming the file if it is missing, empty or not UTF-8.
    """
    lines = read_text(file).split("\n")
    labels: dict[Path, int] = {}
    first_lines: dict[Path, int] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.rsplit(maxsplit=1)
        if not fields:
            continue
        where = f"{file}:{number}"
        if len(fields) == 1:
            raise UsageError(f"{where}: {fields[0]!r} is one field; expected 'path label'")
        name, label = fields[0].strip(), fields[1]
        if not _INTEGER.fullmatch(label):
            raise UsageError(f"{where}: label {label!r} is not an integer; expected 'path label'")
        if int(label) < 0:
            raise UsageError(f"{where}: label {label} is negative; number classes from 0")
        if num_classes is not None and int(label) >= num_classes:
            raise UsageError(
                f"{where}: label {label} is too large; the {num_classes} classes are numbered "
                f"from 0 to {num_classes - 1}"
            )
        path = root / name
        if path in labels:
            raise UsageError(
                f"{where}: {name} is listed in line {first_lines[path]} too; remove one of them"
            )
        if not os.path.isfile(path):  # unlike Path.is_file, False also for impossible names
            raise UsageError(
                f"{where}: image {path} does not exist; correct the line or the root folder"
            )
        labels[path], first_lines[path] = int(label), number
    if not labels:
        raise UsageError(f"{file}: empty; expected lines of 'path label'")
    return labels


def read_list_files(
    root: Path,
    train: Path,
    val: Path | None,
    test: Path | None,
    val_fraction: float,
    split_seed: int,
) -> Splits:
    """Read list files into splits; labels may be 1-based or have gaps.

    The classes are the labels of train in numeric order, and this one map serves all splits.
    Without ``val`` a part of train is divided off, see ``divide``.

    Raises:
        UsageError: as ``read_list``, and for a label of val or test that train does not have.
    """
    labels = read_list(train, root)
    classes = {label: index for index, label in enumerate(sorted(set(labels.values())))}
    class_names = tuple(map(str, classes))
    train_items = _with_classes(labels, classes, train)
    test_items = _with_classes(read_list(test, root), classes, test) if test else ()
    if val:
        val_items = _with_classes(read_list(val, root), classes, val)
    else:
        train_items, val_items = divide(train_items, class_names, val_fraction, split_seed)
    return Splits(train_items, val_items, test_items, class_names)


def _with_classes(
    labels: Mapping[Path, int], classes: Mapping[int, int], file: Path
) -> tuple[Item, ...]:
    for path, label in labels.items():
        if label not in classes:
            raise UsageError(
                f"{file}: label {label} of {path} does not occur in the train list; "
                "correct it or add training images of that class"
            )
    return tuple(Item(path, classes[label]) for path, label in labels.items())

"""Splits that files list, with the class id of each image: list files and JSON files.

A list file has lines ``path label``. A JSON file is ``{"relative/path.jpg": class id, ...}``, the
form of CUB, NABirds, Flowers, Dogs and Cars in the release of VPT (Jia et al., ECCV 2022,
https://arxiv.org/abs/2203.12119). The release numbers the classes of each file separately, which
shifts labels when a class is missing from one; here the classes of train number those of all.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcvpt.data.readers.listed_images import folder_names, listed_path, read_text, require_images
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.errors import UsageError

# int() alone would also take "1_000" and other scripts' digits, and refuse very long numbers.
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_LINES, _OBJECT = "lines of 'path label'", '{"path/of/image.jpg": class id, ...}'

ClassIds = dict[Path, int]
"""Class id of each image, in the order of the file that lists them."""


def listed_splits(
    read: Callable[[Path, Path], ClassIds],
    images: Path,
    train: Path,
    val: Path | None,
    test: Path | None,
) -> TaskSplits:
    """Read the files of the splits; class ids may begin at 1 or have gaps.

    The classes are the ids in train in numeric order, and this one map serves all splits. Classes
    are named after their ids.

    Args:
        read: Function from a file and ``images`` to the class ids in the file.
        images: Folder that the paths in the files are relative to.

    Raises:
        UsageError: If ``read`` refuses a file, or train lacks a class of val or test.
    """
    ids = read(train, images)
    labels = {class_id: label for label, class_id in enumerate(sorted(set(ids.values())))}

    def items(file: Path, ids: ClassIds) -> tuple[Item, ...]:
        for path, class_id in ids.items():
            if class_id not in labels:
                raise UsageError(
                    f"{file}: class {class_id} of {path} does not occur in train; correct it or "
                    "add training images of that class"
                )
        return tuple(Item(path, labels[class_id]) for path, class_id in ids.items())

    return TaskSplits(
        items(train, ids),
        items(val, read(val, images)) if val else None,
        items(test, read(test, images)) if test else (),
        tuple(map(str, labels)),
    )


def read_list_splits(images: Path, train: Path, val: Path | None, test: Path | None) -> TaskSplits:
    """Read list files into splits; see ``listed_splits`` and ``read_list``.

    A third column, divided by tabs as the others, names the group of each image for folds.
    """
    splits = listed_splits(read_list, images, train, val, test)
    groups: dict[Path, str] = {}
    for file in filter(None, (train, val)):
        lines = map(_fields, read_text(file).split("\n"))
        groups |= {images / fields[0]: fields[2] for fields in lines if len(fields) == 3}
    return replace(splits, groups=groups)


def read_json_splits(images: Path, train: Path, val: Path | None, test: Path | None) -> TaskSplits:
    """Read JSON files into splits; see ``listed_splits``, ``read_json`` and ``folder_names``."""
    splits = listed_splits(read_json, images, train, val, test)
    return replace(splits, class_names=folder_names(splits.train, images, splits.class_names))


def read_list(file: Path, images: Path, num_classes: int | None = None) -> ClassIds:
    """Read the labels in a list file, unchanged, by image path in the file's order.

    The label is what follows the last blank, so paths may contain blanks; in a line with three
    columns that tabs divide, it is the second. Blank lines, Windows line ends and a byte order mark
    are accepted.

    Raises:
        UsageError: If the file is missing or not UTF-8, or a line has no label. Also as
            ``checked_ids``. The error names the file and line.
    """
    entries = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        fields = _fields(line)
        if len(fields) == 1:
            raise UsageError(f"{file}:{number}: {line!r} is one field; expected {_LINES}")
        if fields:
            entries.append((f"{file}:{number}", images / fields[0], fields[1]))
    return checked_ids(file, entries, _LINES, num_classes)


def _fields(line: str) -> list[str]:
    """Return path and label, and the group of a line with three columns; nothing for a blank."""
    columns = line.split("\t")
    fields = columns if len(columns) == 3 else line.rsplit(maxsplit=1)
    return [field.strip() for field in fields]


class _Object(list[tuple[str, Any]]):
    """A JSON object that keeps a key that it holds twice."""


def read_json(file: Path, images: Path) -> ClassIds:
    """Read the class ids in a JSON file, unchanged, by image path in the file's order.

    An id may be a number or a string of digits. A byte order mark is accepted.

    Raises:
        UsageError: If the file is missing, not UTF-8, not JSON (with line and column) or not one
            object, or if an image lies outside ``images``. Also as ``checked_ids``.
    """
    try:
        # Integers stay digits: int() refuses very long ones, and would accept true.
        content = json.loads(read_text(file), object_pairs_hook=_Object, parse_int=str)
    except json.JSONDecodeError as error:
        place = f"{file}:{error.lineno}:{error.colno}"
        raise UsageError(f"{place}: not JSON ({error.msg}); expected {_OBJECT}") from error
    except RecursionError as error:
        raise UsageError(f"{file}: nested too deeply; expected {_OBJECT}") from error
    if not isinstance(content, _Object):
        raise UsageError(f"{file}: not a JSON object; expected {_OBJECT}")
    entries = (
        (f"{file}: {name!r}", listed_path(images, name, str(file)), value)
        for name, value in content
    )
    return checked_ids(file, entries, _OBJECT)


def checked_ids(
    file: Path,
    entries: Iterable[tuple[str, Path, Any]],
    expected: str,
    num_classes: int | None = None,
) -> ClassIds:
    """Return the class ids that ``file`` lists; if ``num_classes`` is given, they lie below it.

    Args:
        file: File that lists them.
        entries: Place in the file, path of the image, and digits of its class id.
        expected: Example of a correct entry, for errors.

    Raises:
        UsageError: If an id is not an integer, is negative or too large, or if an image is listed
            twice or does not exist, or none is listed. The error names the place.
    """
    ids: ClassIds = {}
    places: dict[Path, str] = {}
    for place, path, value in entries:
        if not (isinstance(value, str) and _INTEGER.fullmatch(value)):
            text = repr(value) if isinstance(value, str) else json.dumps(value)
            text = text if len(text) <= 40 else text[:40] + "..."
            raise UsageError(f"{place}: label {text} is not an integer; expected {expected}")
        class_id = int(value)
        if class_id < 0:
            raise UsageError(f"{place}: label {class_id} is negative; number classes from 0 or 1")
        if num_classes is not None and class_id >= num_classes:
            raise UsageError(
                f"{place}: label {class_id} is too large; the {num_classes} classes are numbered "
                f"from 0 to {num_classes - 1}"
            )
        if path in ids:
            raise UsageError(
                f"{place}: {path} is listed twice, first in {places[path]}; remove one of the two"
            )
        ids[path], places[path] = class_id, place
    if not ids:
        raise UsageError(f"{file}: empty; expected {expected}")
    require_images(places, file)
    return ids

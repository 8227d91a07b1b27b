"""Class ids that files list, and the one map that makes labels of them."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pcvpt.data.splits import Item, TaskSplits
from pcvpt.errors import UsageError

# int() alone would also take "1_000" and other scripts' digits, and refuse very long numbers.
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")

ClassIds = dict[Path, int]
"""Class id of each image, in the order of the file that lists them."""


def listed_splits(
    read: Callable[[Path], ClassIds],
    train: Path,
    val: Path | None,
    test: Path | None,
    names_of: Callable[[ClassIds], Mapping[int, str]] = lambda ids: {},
) -> TaskSplits:
    """Read the files of the splits; class ids may begin at 1 or have gaps.

    The classes are the ids in train in numeric order, and this one map serves all splits.

    Args:
        read: Function from a file to the class ids in it.
        train: File of the training images.
        val: File of the validation images, if there is one.
        test: File of the test images, if there is one.
        names_of: Function from the class ids in train to the names of classes. A class without a
            name has its id as its name.

    Raises:
        UsageError: If ``read`` refuses a file, or train lacks a class of val or test.
    """
    ids = read(train)
    labels = {class_id: label for label, class_id in enumerate(sorted(set(ids.values())))}
    names = names_of(ids)

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
        items(val, read(val)) if val else None,
        items(test, read(test)) if test else (),
        tuple(names.get(class_id, str(class_id)) for class_id in labels),
    )


def checked_ids(
    file: Path,
    entries: Iterable[tuple[str, Path, Any]],
    expected: str,
    num_classes: int | None = None,
) -> ClassIds:
    """Return the class ids that ``file`` lists.

    Args:
        file: File that lists them.
        entries: For each image its place in the file (for errors), its path, and the digits of its
            class id.
        expected: Example of a correct entry, for errors.
        num_classes: Number of classes. If given, the ids must lie below it.

    Raises:
        UsageError: If an id is not an integer, is negative or too large, or if an image is listed
            twice or none is. The error names the place.
    """
    ids: ClassIds = {}
    places: dict[Path, str] = {}
    for place, path, value in entries:
        if not (isinstance(value, str) and _INTEGER.fullmatch(value)):
            raise UsageError(
                f"{place}: label {_excerpt(value)} is not an integer; expected {expected}"
            )
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
    return ids


def _excerpt(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "..."

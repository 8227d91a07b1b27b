"""The division of a published training set that has no list of validation images.

It is recorded beside the data, so that it stays the same when images are added.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pcvpt.data.splits import Item, divide
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import write_json

_NOTE = (
    "Validation images that pcvpt divided off train, class by class and by this seed. "
    "Not the division of the VPT release, whose files are no longer available."
)


def divide_as_recorded(
    items: Sequence[Item], class_names: Sequence[str], fraction: float, seed: int, folder: Path
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Return (train, val) as recorded in ``folder``, or by ``divide`` if there is no record.

    Raises:
        UsageError: If the record does not fit the images. Also as ``divide``.
    """
    file = _file(folder, fraction, seed)
    if not file.is_file():
        return divide(items, class_names, fraction, seed)
    try:
        chosen = set(json.loads(file.read_text(encoding="utf-8"))["val"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not readable ({error}); delete it to divide again") from error
    names = _names(items, folder)
    unknown = chosen - set(names)
    if unknown:
        raise UsageError(
            f"{file}: lists {len(unknown)} images that are not in train, such as {min(unknown)}; "
            "delete it to divide again"
        )
    pairs = list(zip(items, names, strict=True))
    train = tuple(item for item, name in pairs if name not in chosen)
    return train, tuple(item for item, name in pairs if name in chosen)


def record_division(
    items: Sequence[Item], val: Sequence[Item], fraction: float, seed: int, folder: Path
) -> Path | None:
    """Record which of ``items`` are in ``val``, unless a record exists; return its file.

    None means that the folder is not writable, which is no error: the seed gives the same division.
    """
    file = _file(folder, fraction, seed)
    if file.is_file():
        return file
    chosen, pairs = set(map(id, val)), zip(items, _names(items, folder), strict=True)
    names = [name for item, name in pairs if id(item) in chosen]
    try:
        write_json(file, {"note": _NOTE, "fraction": fraction, "seed": seed, "val": names})
    except UsageError:
        return None
    return file


def _file(folder: Path, fraction: float, seed: int) -> Path:
    return folder / f"pcvpt-val-{fraction:g}-seed{seed}.json"


def _names(items: Sequence[Item], folder: Path) -> list[str]:
    """Return for each image its path relative to ``folder``, or its position if it has no file."""
    return [
        Path(os.path.relpath(source, folder)).as_posix() if isinstance(source, Path) else str(n)
        for n, (source, _) in enumerate(items)
    ]

"""The division of a published training set that has no list of validation images.

It is recorded beside the data, so that it stays the same when images are added.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pcvpt.data.image_files import named_errors
from pcvpt.data.splits import Item, divide, parted
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
    with named_errors(file, "delete it to divide again"):
        chosen = set(json.loads(file.read_text(encoding="utf-8"))["val"])
    names = _names(items, folder)
    if unknown := chosen.difference(names):
        raise UsageError(
            f"{file}: lists {len(unknown)} images that are not in train, such as {min(unknown)}; "
            "delete it to divide again"
        )
    return parted(items, {number for number, name in enumerate(names) if name in chosen})


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

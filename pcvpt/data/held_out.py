"""The division of a published training set that came without a list of validation images."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pcvpt.data.splits import Item, divide
from pcvpt.errors import UsageError

_NOTE = (
    "Validation images that pcvpt divided off train, class by class and by this seed. "
    "Not the division of the VPT release, whose files are no longer to be had."
)


def divided(
    items: Sequence[Item], class_names: Sequence[str], fraction: float, seed: int, folder: Path
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Return (train, val): the division recorded in ``folder``, or else a new one by ``divide``.

    Raises:
        UsageError: as ``divide``, and for a record that does not fit the images.
    """
    file = _file(folder, fraction, seed)
    if not file.is_file():
        return divide(items, class_names, fraction, seed)
    try:
        chosen = set(json.loads(file.read_text(encoding="utf-8"))["val"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not readable ({error}); delete it to divide anew") from error
    names = [_name(item, position, folder) for position, item in enumerate(items)]
    unknown = chosen - set(names)
    if unknown:
        raise UsageError(
            f"{file}: lists {len(unknown)} images that are not in train, {min(unknown)} among "
            "them; delete it to divide anew"
        )
    pairs = list(zip(items, names, strict=True))
    train = tuple(item for item, name in pairs if name not in chosen)
    return train, tuple(item for item, name in pairs if name in chosen)


def record(
    items: Sequence[Item],
    val: Sequence[Item],
    fraction: float,
    seed: int,
    folder: Path,
) -> Path | None:
    """Write the division beside the data, once; return the file, or None if it can't be written."""
    file = _file(folder, fraction, seed)
    chosen = {id(item) for item in val}
    names = [
        _name(item, position, folder) for position, item in enumerate(items) if id(item) in chosen
    ]
    content = {"note": _NOTE, "fraction": fraction, "seed": seed, "val": names}
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")
        os.replace(partial, file)
    except OSError:  # a data folder may well be read-only; the seed gives the same division
        return None
    return file


def _file(folder: Path, fraction: float, seed: int) -> Path:
    return folder / f"pcvpt-val-{fraction:g}-seed{seed}.json"


def _name(item: Item, position: int, folder: Path) -> str:
    if not isinstance(item.source, Path):
        return str(position)
    return Path(os.path.relpath(item.source, folder)).as_posix()

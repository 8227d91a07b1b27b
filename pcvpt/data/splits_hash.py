"""A short name for the images and labels of a task, to tell whether two runs saw the same ones."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from pcvpt.data.splits import Item, Record, Splits

_DIGITS = 16


def splits_hash(splits: Splits) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 over what ``splits`` consist of.

    Of a file that is its name, below the folder that all have in common, and its size in bytes; of
    a record its name, of an array its pixels. Names of classes and labels are in it, and the order.
    The content of files is not (``pcvpt data verify`` looks at that): it would take as long as
    reading all of them. The same data in another place have the same hash.
    """
    parts = (splits.train, splits.val, splits.test)
    root = _common_folder(item for part in parts for item in part)
    digest = hashlib.sha256(repr(splits.class_names).encode())
    for part in parts:
        digest.update(f"\n{len(part)}".encode())
        for item in part:
            digest.update(_identity(item, root))
    return digest.hexdigest()[:_DIGITS]


def _common_folder(items: Iterable[Item]) -> str:
    folders = {os.path.abspath(i.source.parent) for i in items if isinstance(i.source, Path)}
    return os.path.commonpath(folders) if folders else ""


def _identity(item: Item, root: str) -> bytes:
    source, label = item
    if isinstance(source, Path):
        name = Path(os.path.relpath(os.path.abspath(source), root)).as_posix()
        return f"\n{label} {name} {source.stat().st_size}".encode(errors="surrogateescape")
    if isinstance(source, Record):
        return f"\n{label} {source.name}".encode()
    return f"\n{label} {source.shape} ".encode() + source.tobytes()

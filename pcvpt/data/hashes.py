"""Hashes that tell images apart: by their content, or by names and sizes of files."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pcvpt.data.image_files import stored
from pcvpt.data.splits import Item, Record, Source, Splits


def digest(source: Source) -> str:
    """Return the SHA-256 of an image's stored bytes in hex; for pixels, their shape counts too.

    Equal digests mean equal images. The reverse holds in one layout only: the same image as
    pixels, PNG and JPEG has three digests. A file that cannot be read is a ``UsageError``.
    """
    content = stored(source)
    if isinstance(content, np.ndarray):
        content = f"pixels {content.shape}\n".encode() + np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(content).hexdigest()


def sources_hash(sources: Iterable[Source], settings: Any) -> str:
    """Return a short hash of images and of ``settings``, which JSON can hold.

    A file counts by its place, its size and the time of its last change: nothing of it is read.
    Other images count by their content.
    """
    hashed = hashlib.sha256(json.dumps(settings).encode())
    for source in sources:
        if isinstance(source, Path):
            status = source.stat()
            hashed.update(os.fsencode(source.resolve()))
            hashed.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            continue
        hashed.update(digest(source).encode())
    return hashed.hexdigest()[:24]


def split_hash(pairs: Iterable[tuple[int, str]]) -> str:
    """Return one hash for the order, labels and contents of images, from labels and digests."""
    hashed = hashlib.sha256()
    for label, content in pairs:
        hashed.update(f"{label} {content}\n".encode())
    return hashed.hexdigest()


def splits_hash(splits: Splits) -> str:
    """Return a short hash that tells whether two runs used the same images and labels.

    It is the first 16 hexadecimal digits of a SHA-256 over the names of the classes and, in their
    order, the labels and images. A file counts by its size in bytes and its name below the folder
    that all files have in common, so that a copy in another place has the same hash. A record
    counts by its name, an array by its pixels. The content of files does not count, because
    reading all of it would take too long; ``pcvpt data verify`` compares it.
    """
    parts = (splits.train, splits.val, splits.test)
    files = [item.source for part in parts for item in part if isinstance(item.source, Path)]
    folders = {os.path.abspath(file.parent) for file in files}
    root = os.path.commonpath(folders) if folders else ""
    hashed = hashlib.sha256(repr(splits.class_names).encode())
    for part in parts:
        hashed.update(f"\n{len(part)}".encode())
        for item in part:
            hashed.update(_identity(item, root))
    return hashed.hexdigest()[:16]


def _identity(item: Item, root: str) -> bytes:
    source, label = item
    if isinstance(source, Path):
        name = Path(os.path.relpath(os.path.abspath(source), root)).as_posix()
        return f"\n{label} {name} {source.stat().st_size}".encode(errors="surrogateescape")
    if isinstance(source, Record):
        return f"\n{label} {source.name}".encode(errors="surrogateescape")
    return f"\n{label} {source.shape} ".encode() + source.tobytes()

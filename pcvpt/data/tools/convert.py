"""Any reading of a task as list files, without loss."""

import errno
import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from pcvpt.data.image_files import encoded
from pcvpt.data.layouts.base import TaskSplits
from pcvpt.data.layouts.lists import JOINT, NAMES
from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.data.tools.manifest import FILE, Manifest, Row
from pcvpt.errors import UsageError

OnProgress = Callable[[int, int], None]

_BLOCK = 4096  # bytes that a file's size is rounded up to on most disks


def convert(
    task: Task, reading: TaskSplits, target: Path, on_progress: OnProgress | None = None
) -> Path:
    """Write ``reading`` as list files into ``target/<task's name>`` and return that folder.

    Image files are copied byte by byte, whether or not they can be decoded; pixels become PNG.
    ``splits.json`` records where they are from and a hash of each. The same reading always gives
    the same bytes. The folder appears when it is whole; otherwise nothing is left.

    Args:
        task: what ``reading`` is of.
        reading: the images; ``val`` may be None for FGVC only.
        target: folder of several tasks, made if need be.
        on_progress: called with the number of images done and of all.

    Raises:
        UsageError: if the folder exists already, a split is empty, an image cannot be read, or
            the disk is full or may not be written to.
    """
    place = target / task.name
    if os.path.lexists(place):
        whole = (place / FILE).is_file()
        raise UsageError(
            f"{place}: {'already there' if whole else 'exists, but is not a converted task'}; "
            "nothing was written; give another target"
        )
    splits = _splits(task, reading)
    needed = _bytes(splits)
    partial = target / f".{task.name}.partial-{secrets.token_hex(4)}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        if needed > shutil.disk_usage(target).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        partial.mkdir()
        _write(task, reading, splits, partial, on_progress)
        partial.rename(place)
    except OSError as error:
        raise UsageError(_fault(error, target, needed)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # no longer there if all went well
    return place


def _splits(task: Task, reading: TaskSplits) -> dict[str, tuple[Item, ...]]:
    """Return the images by the name of their list."""
    train, val, test = NAMES[task.suite]
    splits = {train: reading.train, val: reading.val, test: reading.test}
    if reading.val is None and task.suite == "fgvc":
        del splits[val]
    for name, items in splits.items():
        if not items:
            raise UsageError(f"{task.name}: {name} has no images ({reading.source}); add some")
    return {name: items for name, items in splits.items() if items}


def _write(
    task: Task,
    reading: TaskSplits,
    splits: Mapping[str, Sequence[Item]],
    folder: Path,
    on_progress: OnProgress | None,
) -> None:
    total, done = sum(map(len, splits.values())), 0
    rows: dict[str, tuple[Row, ...]] = {}
    for name, items in splits.items():
        (folder / "images" / name).mkdir(parents=True)
        written = []
        for index, item in enumerate(items):
            content, suffix = encoded(item.source)
            path = f"images/{name}/{index:06}{suffix}"
            (folder / path).write_bytes(content)
            written.append(Row(path, item.label, hashlib.sha256(content).hexdigest()))
            done += 1
            if on_progress:
                on_progress(done, total)
        rows[name] = tuple(written)
    lists = dict(rows)
    if task.suite == "vtab":  # the joint list names the same files once more
        train, val, _ = NAMES["vtab"]
        lists[JOINT] = rows[train] + rows[val]
    for name, listed in lists.items():
        lines = "".join(f"{row.path} {row.label}\n" for row in listed)
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8", newline="\n")
    manifest = Manifest(
        task.name, reading.source, reading.notes, _version(), reading.class_names, rows
    )
    (folder / FILE).write_text(manifest.text(), encoding="utf-8", newline="\n")


def _bytes(splits: Mapping[str, Sequence[Item]]) -> int:
    """Return about how many bytes the files take; records in a store are counted as one block."""
    return sum(
        math.ceil(_size(item) / _BLOCK) * _BLOCK for items in splits.values() for item in items
    )


def _size(item: Item) -> int:
    if isinstance(item.source, Path):
        try:
            return item.source.stat().st_size
        except OSError:
            return 1  # reading it will say what is wrong
    return item.source.nbytes if isinstance(item.source, np.ndarray) else 1


def _fault(error: OSError, target: Path, needed: int) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or target}: {error.strerror or error}; nothing was converted"
    parent = next(folder for folder in (target, *target.parents) if folder.exists())
    return (
        f"{target}: the disk is full; about {needed:,} bytes or more are needed and "
        f"{shutil.disk_usage(parent).free:,} are free; make room or give another target"
    )


def _version() -> str:
    try:
        return metadata.version("pcvpt")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"

"""Conversion of a task from any layout to list files, without loss."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pcvpt.data.image_files import encoded
from pcvpt.data.layouts.lists import JOINT, NAMES
from pcvpt.data.layouts.manifest import FILE, Manifest, Row
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.table import Task
from pcvpt.data.tools.disk import OnImages, check_space, disk_errors, silent
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import atomic_folder
from pcvpt.runs.version import __version__

_BLOCK = 4096  # bytes that a file's size is rounded up to on most disks


def convert(task: Task, content: TaskSplits, target: Path, on_progress: OnImages = silent) -> Path:
    """Write the images as list files into ``target/<task's name>`` and return that folder.

    Image files are copied byte by byte, whether or not they can be decoded; pixels become PNG.
    ``splits.json`` records the origin and a hash of each image. The same content always gives the
    same bytes. The folder is written atomically. ``content.val`` may be None for FGVC only.

    Raises:
        UsageError: If the task's folder exists already, a split is empty, an image cannot be read,
            or the disk is full or refuses to write.
    """
    folder = target / task.name
    parts = content.train, content.val or (), content.test
    splits = dict(zip(NAMES[task.suite], parts, strict=True))
    if content.val is None and task.suite == "fgvc":
        del splits["val"]
    for name, items in splits.items():
        if not items:
            raise UsageError(f"{task.name}: {name} has no images ({content.source}); add some")
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as partial:
            size = sum(_size(item) for items in splits.values() for item in items)
            check_space(target, size, f"converting {task.name}")
            _write(task, content, splits, partial, on_progress)
    return folder


def _write(
    task: Task,
    content: TaskSplits,
    splits: Mapping[str, Sequence[Item]],
    folder: Path,
    on_progress: OnImages,
) -> None:
    total, done = sum(map(len, splits.values())), 0
    rows = {name: list[Row]() for name in splits}
    for name, items in splits.items():
        (folder / "images" / name).mkdir(parents=True)
        for index, item in enumerate(items):
            image, suffix = encoded(item.source)
            path = f"images/{name}/{index:06}{suffix}"
            (folder / path).write_bytes(image)
            rows[name].append(Row(path, item.label, hashlib.sha256(image).hexdigest()))
            done += 1
            on_progress(done, total)
    lists = dict(rows)
    if task.suite == "vtab":  # the joint list names the same files once more
        train, val, _ = NAMES["vtab"]
        lists[JOINT] = rows[train] + rows[val]
    for name, listed in lists.items():
        lines = "".join(f"{row.path} {row.label}\n" for row in listed)
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8", newline="\n")
    manifest = Manifest(
        task.name, content.source, content.notes, __version__, content.class_names, rows
    )
    (folder / FILE).write_text(manifest.text(), encoding="utf-8", newline="\n")


def _size(item: Item) -> int:
    """Return about how many bytes a file takes; a record in a store counts as one block."""
    size = 1
    if isinstance(item.source, np.ndarray):
        size = item.source.nbytes
    elif isinstance(item.source, Path) and item.source.is_file():
        size = item.source.stat().st_size
    return math.ceil(size / _BLOCK) * _BLOCK

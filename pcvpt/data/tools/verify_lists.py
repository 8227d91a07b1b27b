"""What ``verify`` checks beyond the images where they come with list files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from pcvpt.data.layouts.base import TaskSplits
from pcvpt.data.layouts.lists import JOINT, NAMES
from pcvpt.data.readers.list_files import read_list
from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.data.tools.manifest import FILE, Row, read_manifest
from pcvpt.errors import UsageError

_NAMED = 5  # images that a problem spells out

# Which of the splits that a folder may be named after an image of a list may lie in.
_FOLDERS = {
    "train": {"train", "train800", "trainval", JOINT},
    "val": {"val", "val200", "validation", "trainval", JOINT},
    "test": {"test"},
}
_SPLIT_FOLDERS = frozenset[str]().union(*_FOLDERS.values())


def some(head: str, lines: Sequence[str]) -> str:
    """Return ``head`` with the first few ``lines`` and the number of the others."""
    more = [f"and {len(lines) - _NAMED:,} more"] if len(lines) > _NAMED else []
    return "\n  ".join([f"{head}:", *lines[:_NAMED], *more])


def joint_list(task: Task, folder: Path) -> tuple[tuple[Item, ...], list[str]]:
    """Return the images of ``train800val200.txt``, if it is there, and what is wrong with it."""
    file = folder / f"{JOINT}.txt"
    if task.suite != "vtab" or not file.exists():
        return (), []
    try:
        labels = read_list(file, folder, task.num_classes)
    except UsageError as error:
        return (), [str(error)]
    return tuple(Item(path, label) for path, label in labels.items()), []


def beside(joint: Iterable[Item], others: Iterable[Item]) -> tuple[Item, ...]:
    """Return the items of ``joint`` whose files are of none of the ``others``."""
    known = {item.source for item in others if isinstance(item.source, Path)}
    return tuple(item for item in joint if item.source not in known)


def problems(
    task: Task,
    reading: TaskSplits,
    folder: Path,
    joint: Sequence[Item],
    digests: Mapping[Path, str],
) -> list[str]:
    """Return what contradicts the images' folders, the joint list or ``splits.json``.

    ``digests`` are those of all images, the joint list's included.

    Raises:
        UsageError: for a ``splits.json`` that cannot be read.
    """
    found = []
    for split, name, items in _lists(task, reading):
        astray = [
            f"{name}.txt: {_relative(item, folder)}"
            for item in items
            if _split_folders(item, folder) - _folders(task, split)
        ]
        if astray:
            found.append(some(f"{name}.txt lists images from another split's folder", astray))
    if joint:
        found += _joint_problems(task, reading, folder, joint, digests)
    manifest = read_manifest(folder)
    if manifest is None:
        return found
    listed = {name: items for _, name, items in _lists(task, reading)}
    for name in sorted(manifest.splits.keys() - listed.keys()):
        found.append(f"{FILE} records a split {name!r}, which is not there")
    for name, items in listed.items():
        found += _changes(name, items, folder, manifest.splits.get(name, ()), digests)
    return found


def _lists(task: Task, reading: TaskSplits) -> list[tuple[str, str, tuple[Item, ...]]]:
    """Return (split, name of its list, images) for the splits that are there."""
    splits = zip(
        ("train", "val", "test"),
        NAMES[task.suite],
        (reading.train, reading.val, reading.test),
        strict=True,
    )
    return [(split, name, items) for split, name, items in splits if items is not None]


def _relative(item: Item, folder: Path) -> str:
    path = item.source
    if not isinstance(path, Path):
        return "a record"
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _folders(task: Task, split: str) -> set[str]:
    """Return the names that the folder of the split's images may have; FGVC's val is of train."""
    divided_off = task.suite == "fgvc" and split == "val"
    return _FOLDERS[split] | (_FOLDERS["train"] if divided_off else set())


def _split_folders(item: Item, folder: Path) -> set[str]:
    """Return the names of splits among the image's folders, its own part of the path only."""
    return set(_relative(item, folder).split("/")[:-1]) & _SPLIT_FOLDERS


def _joint_problems(
    task: Task,
    reading: TaskSplits,
    folder: Path,
    joint: Sequence[Item],
    digests: Mapping[Path, str],
) -> list[str]:
    """Compare as sets, as neither the order nor copies of the images in two folders matter."""
    train_name, val_name, _ = NAMES[task.suite]
    own = list(chain(reading.train, reading.val or ()))
    by_content = len(beside(joint, own)) == len(joint)

    def keys(items: Iterable[Item]) -> Counter[tuple[str, int]]:
        return Counter(
            (digests.get(item.source, "") if by_content else str(item.source), item.label)
            for item in items
            if isinstance(item.source, Path)
        )

    surplus, lacking = keys(joint) - keys(own), keys(own) - keys(joint)
    if not surplus and not lacking:
        return []
    lines = [
        f"{_relative(item, folder)}, label {item.label}, is in {where} only"
        for items, keyed, where in (
            (joint, surplus, f"{JOINT}.txt"),
            (own, lacking, f"{train_name}.txt or {val_name}.txt"),
        )
        for item in items
        if keys([item]) & keyed
    ]
    return [some(f"{JOINT}.txt is not {train_name}.txt and {val_name}.txt together", lines)]


def _changes(
    name: str,
    items: Sequence[Item],
    folder: Path,
    recorded: Sequence[Row],
    digests: Mapping[Path, str],
) -> list[str]:
    rows = {row.path: row for row in recorded}
    listed = {_relative(item, folder): item for item in items}
    found = []
    differing = [path for path in [*rows, *listed] if (path in rows) != (path in listed)]
    if differing:
        lines = [
            f"{path} is in {FILE if path in rows else name + '.txt'} only" for path in differing
        ]
        found.append(some(f"{name}.txt and {FILE} differ in {len(lines):,} images", lines))
    elif list(rows) != list(listed):
        found.append(f"{name}.txt has another order than {FILE} records")
    both = [(item, rows[path]) for path, item in listed.items() if path in rows]
    relabelled = [
        f"{row.path}: label {item.label}, recorded {row.label}"
        for item, row in both
        if item.label != row.label
    ]
    if relabelled:
        head = f"{name}.txt has {len(relabelled):,} labels other than {FILE} records"
        found.append(some(head, relabelled))
    changed = [
        row.path
        for item, row in both
        if isinstance(item.source, Path) and digests.get(item.source) != row.sha256
    ]
    if changed:
        head = f"{len(changed):,} images of {name} are not the files that {FILE} records"
        found.append(some(head, changed))
    return found

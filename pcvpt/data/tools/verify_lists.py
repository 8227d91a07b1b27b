"""What ``verify`` checks beyond the images where they come with list files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, starmap
from pathlib import Path

from pcvpt.data.image_files import first_few
from pcvpt.data.layouts.lists import JOINT, NAMES
from pcvpt.data.layouts.manifest import FILE, Row, read_manifest
from pcvpt.data.readers.list_files import read_list
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

# Names of splits that a folder may be named after, for the images of each list.
_TRAIN = {"train", "train800", "trainval", JOINT}
_VAL = {"val", "val200", "validation", "trainval", JOINT}
_FOLDERS = {
    "train": _TRAIN,
    "train800": _TRAIN,
    "val": _VAL | _TRAIN,  # FGVC's val is a part of train
    "val200": _VAL,
    "test": {"test"},
}
_SPLIT_FOLDERS = frozenset[str]().union(*_FOLDERS.values())


def problem(head: str, lines: Sequence[str]) -> str:
    """Return a problem: ``head``, and the first few ``lines`` below it."""
    return f"{head}:\n" + first_few([f"  {line}" for line in lines])


def read_joint_list(task: Task, folder: Path) -> tuple[tuple[Item, ...], list[str]]:
    """Return the images of ``train800val200.txt``, none without the file, and its problems."""
    file = folder / f"{JOINT}.txt"
    if task.suite != "vtab" or not file.exists():
        return (), []
    try:
        labels = read_list(file, folder, task.num_classes)
    except UsageError as error:
        return (), [str(error)]
    return tuple(starmap(Item, labels.items())), []


def not_among(joint: Iterable[Item], others: Iterable[Item]) -> tuple[Item, ...]:
    """Return the items of ``joint`` whose files are not those of ``others``."""
    known = {item.source for item in others if isinstance(item.source, Path)}
    return tuple(item for item in joint if item.source not in known)


def list_problems(
    task: Task,
    content: TaskSplits,
    folder: Path,
    joint: Sequence[Item],
    digests: Mapping[Path, str],
) -> list[str]:
    """Return what contradicts the images' folders, the joint list or ``splits.json``.

    ``digests`` are those of the files in the lists, in the joint one too.
    """
    parts = zip(NAMES[task.suite], (content.train, content.val, content.test), strict=True)
    lists = {name: items for name, items in parts if items is not None}
    found = []
    for name, items in lists.items():
        wrong = [
            f"{name}.txt: {_relative(item, folder)}"
            for item in items
            if set(_relative(item, folder).split("/")[:-1]) & _SPLIT_FOLDERS - _FOLDERS[name]
        ]
        if wrong:
            found.append(problem(f"{name}.txt lists images from another split's folder", wrong))
    if joint:
        found += _joint_problems(task, content, folder, joint, digests)
    manifest = read_manifest(folder)
    if manifest is not None:
        for name in sorted(manifest.splits.keys() - lists.keys()):
            found.append(f"{FILE} records a split {name!r}, which does not exist")
        for name, items in lists.items():
            found += _changes(name, items, folder, manifest.splits.get(name, ()), digests)
    return found


def _relative(item: Item, folder: Path) -> str:
    path = item.source
    if not isinstance(path, Path):
        return "a record"
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _joint_problems(
    task: Task,
    content: TaskSplits,
    folder: Path,
    joint: Sequence[Item],
    digests: Mapping[Path, str],
) -> list[str]:
    """Compare as sets, because neither the order nor copies of the images in two folders matter."""
    train_name, val_name, _ = NAMES[task.suite]
    own = list(chain(content.train, content.val or ()))
    by_content = len(not_among(joint, own)) == len(joint)

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
    return [problem(f"{JOINT}.txt is not {train_name}.txt and {val_name}.txt together", lines)]


def _changes(
    name: str,
    items: Sequence[Item],
    folder: Path,
    recorded: Sequence[Row],
    digests: Mapping[Path, str],
) -> list[str]:
    """Return in what a list differs from the record of it."""
    rows = {row.path: row for row in recorded}
    listed = {_relative(item, folder): item for item in items}
    both = [(item, rows[path]) for path, item in listed.items() if path in rows]
    differing = [
        f"{path} is in {FILE if path in rows else name + '.txt'} only"
        for path in [*rows, *listed]
        if (path in rows) != (path in listed)
    ]
    relabelled = [
        f"{row.path}: label {item.label}, recorded {row.label}"
        for item, row in both
        if item.label != row.label
    ]
    changed = [
        row.path
        for item, row in both
        if isinstance(item.source, Path) and digests.get(item.source) != row.sha256
    ]
    found = [
        problem(head, lines)
        for head, lines in (
            (f"{name}.txt and {FILE} differ in {len(differing):,} images", differing),
            (f"{name}.txt has {len(relabelled):,} labels other than {FILE} records", relabelled),
            (f"{len(changed):,} images of {name} are not the files that {FILE} records", changed),
        )
        if lines
    ]
    if not differing and list(rows) != list(listed):
        found.insert(0, f"{name}.txt has another order than {FILE} records")
    return found

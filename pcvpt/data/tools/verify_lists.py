"""What ``verify`` checks beyond the images where they come with list files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, starmap
from pathlib import Path

from pcvpt.data.image_files import first_few
from pcvpt.data.layouts.lists import JOINT
from pcvpt.data.layouts.manifest import FILE, Row, read_manifest
from pcvpt.data.readers.listed_splits import read_list
from pcvpt.data.splits import Item
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
    JOINT: _VAL | _TRAIN | {"test"},  # compared with the other lists
}
_SPLIT_FOLDERS = _FOLDERS[JOINT]


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


def list_problems(lists: Mapping[str, Sequence[Row]], folder: Path) -> list[str]:
    """Return what contradicts the images' folders, the joint list or ``splits.json``.

    ``lists`` are the images as they are, by the name of their list, the joint one included.
    """
    found: list[tuple[str, Sequence[str]]] = []
    for name, rows in lists.items():
        wrong = _SPLIT_FOLDERS - _FOLDERS[name]
        lines = [f"{name}.txt: {r.path}" for r in rows if wrong & {*r.path.split("/")[:-1]}]
        found.append((f"{name}.txt lists images from another split's folder", lines))
    if joint := lists.get(JOINT):
        own = [row for name, rows in lists.items() for row in rows if name not in (JOINT, "test")]
        found.append(
            (f"{JOINT}.txt is not train800.txt and val200.txt together", _differences(joint, own))
        )
    problems = [problem(head, lines) for head, lines in found if lines]
    if manifest := read_manifest(folder):
        names = lists.keys() - {JOINT}
        for name in sorted(manifest.splits.keys() - names):
            problems.append(f"{FILE} records a split {name!r}, which does not exist")
        for name in lists:
            if name != JOINT:
                problems += _changes(name, lists[name], manifest.splits.get(name, ()))
    return problems


def _differences(joint: Sequence[Row], own: Sequence[Row]) -> list[str]:
    """Compare as sets, because neither the order nor copies of the images in two folders matter."""
    by_content = not {row.path for row in joint} & {row.path for row in own}

    def key(row: Row) -> tuple[str, int]:
        return row.sha256 if by_content else row.path, row.label

    joint_keys, own_keys = Counter(map(key, joint)), Counter(map(key, own))
    return [
        f"{row.path}, label {row.label}, is in {where} only"
        for rows, keys, where in (
            (joint, joint_keys - own_keys, f"{JOINT}.txt"),
            (own, own_keys - joint_keys, "train800.txt or val200.txt"),
        )
        for row in rows
        if key(row) in keys
    ]


def _changes(name: str, rows: Sequence[Row], recorded: Sequence[Row]) -> list[str]:
    """Return in what a list differs from the record of it."""
    old, new = ({row.path: row for row in each} for each in (recorded, rows))
    both = [(old[path], new[path]) for path in new if path in old]
    differing = [
        f"{path} is in {FILE if path in old else name + '.txt'} only"
        for path in chain(old, new)
        if (path in old) != (path in new)
    ]
    relabelled = [
        f"{now.path}: label {now.label}, recorded {was.label}"
        for was, now in both
        if now.label != was.label
    ]
    changed = [now.path for was, now in both if now.sha256 != was.sha256]
    found = [
        problem(head, lines)
        for head, lines in (
            (f"{name}.txt and {FILE} differ in {len(differing):,} images", differing),
            (f"{name}.txt has {len(relabelled):,} labels other than {FILE} records", relabelled),
            (f"{len(changed):,} images of {name} are not the files that {FILE} records", changed),
        )
        if lines
    ]
    if not differing and list(old) != list(new):
        found.append(f"{name}.txt has another order than {FILE} records")
    return found

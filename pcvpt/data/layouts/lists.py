"""List files in the task's folder, with lines ``images/<split>/000000.jpg <label>``.

Most code after VPT (Jia et al., ECCV 2022) reads VTAB-1k in this form, and ``pcvpt data convert``
writes it. Beside the lists there may be our ``splits.json``, which records the images' origin.
"""

from collections import Counter
from collections.abc import Callable
from itertools import starmap
from pathlib import Path

from pcvpt.data.hashes import digest
from pcvpt.data.layouts.base import Layout, normalized, require_classes
from pcvpt.data.layouts.manifest import FILE, read_manifest
from pcvpt.data.readers.listed_splits import read_list
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

NAMES = {"fgvc": ("train", "val", "test"), "vtab": ("train800", "val200", "test")}
"""Names of the lists of train, val and test, without ``.txt``, by suite."""

JOINT = "train800val200"
"""VTAB-1k: name of the list of train and val together."""

_UNKNOWN_ORIGIN = (
    "origin not recorded; list-file copies in circulation are re-saved as JPEG, "
    "which costs accuracy on small images"
)


def required_files(task: Task) -> str:
    """Name the lists and give an example of a line; see ``Layout``."""
    train, val, test = NAMES[task.suite]
    val = f"{val}.txt (optional)" if task.suite == "fgvc" else f"{val}.txt"
    return f"{train}.txt, {val} and {test}.txt with lines 'images/{train}/000000.jpg 0'"


def locate(task: Task, folder: Path) -> Path | None:
    """Return ``folder`` if it has lists of train and test.

    The labels of two tasks on the same images look alike, so that a folder named after the other
    task, or after both, is not taken.
    """
    train, _, test = NAMES[task.suite]
    others = {normalized(name) for name in (task.sibling, *task.folders)} if task.sibling else set()
    if normalized(folder.resolve().name) in others - {normalized(task.name)}:
        return None
    files = (folder / f"{train}.txt").is_file() and (folder / f"{test}.txt").is_file()
    return folder if files else None


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the lists; see ``Layout.read``."""
    source = f"list files in {folder}"
    notes: tuple[str, ...] = (_UNKNOWN_ORIGIN,)
    class_names = tuple(map(str, range(task.num_classes)))
    manifest = read_manifest(folder)
    if manifest:
        if manifest.task != task.name:
            raise UsageError(
                f"{folder / FILE}: these are the images of {manifest.task}, not of {task.name}; "
                f"give the folder of {task.name}"
            )
        require_classes(len(manifest.class_names), task, folder / FILE, "class names")
        source = f"{source}, converted from: {manifest.source}"
        notes, class_names = manifest.notes, manifest.class_names

    train_name, val_name, test_name = NAMES[task.suite]
    train = _items(task, folder, train_name)
    test = _items(task, folder, test_name)
    val: tuple[Item, ...] | None = None
    if (folder / f"{val_name}.txt").exists():
        val = _items(task, folder, val_name)
    elif task.suite == "vtab":
        val = _val_from_joint(task, folder, train)
        notes += (f"{val_name}.txt is missing: val is what {JOINT}.txt has beyond train800.txt",)
    elif manifest and val_name in manifest.splits:
        raise UsageError(
            f"{folder / val_name}.txt: missing, but {FILE} records this split; restore the file"
        )
    return TaskSplits(train, val, test, class_names, source, notes)


def _items(task: Task, folder: Path, name: str) -> tuple[Item, ...]:
    return tuple(starmap(Item, read_list(folder / f"{name}.txt", folder, task.num_classes).items()))


def _val_from_joint(task: Task, folder: Path, train: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return the images of the joint list that are not in ``train``."""
    missing, joint_file = folder / f"{NAMES[task.suite][1]}.txt", folder / f"{JOINT}.txt"
    if not joint_file.exists():
        raise UsageError(
            f"{missing}: missing, and there is no {joint_file.name} to take its images from; "
            "restore one of the two"
        )
    joint = _items(task, folder, JOINT)
    rest = _without(joint, train, lambda item: str(item.source))
    if len(rest) == len(joint):  # some copies keep the joint list's images in a separate folder
        rest = _without(joint, train, lambda item: digest(item.source))
    if not rest or len(joint) - len(rest) != len(train):
        raise UsageError(
            f"{missing}: missing, and cannot be made from {joint_file.name}, which does not "
            "consist of the images of train800.txt and others; restore the file"
        )
    return rest


def _without(
    joint: tuple[Item, ...], train: tuple[Item, ...], key: Callable[[Item], str]
) -> tuple[Item, ...]:
    """Return ``joint`` without one image of the same key for each of ``train``."""
    rest, remaining = [], Counter(map(key, train))
    for item, image in zip(joint, map(key, joint), strict=True):
        remaining[image] -= 1
        if remaining[image] < 0:
            rest.append(item)
    return tuple(rest)


LAYOUT = Layout("lists", required_files, locate, read)

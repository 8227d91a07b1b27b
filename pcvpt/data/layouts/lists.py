"""List files in the task's folder, with lines ``images/<split>/000000.jpg <label>``.

Most code after VPT (Jia et al., ECCV 2022) reads VTAB-1k in this form, and ``pcvpt data convert``
writes it. Beside the lists there may be our ``splits.json``, which records the images' origin.
"""

from itertools import starmap
from pathlib import Path

from pcvpt.data.layouts.base import Layout, normalized, require_classes
from pcvpt.data.layouts.manifest import FILE, read_manifest
from pcvpt.data.readers.listed_splits import read_list
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError

NAMES = {"fgvc": ("train", "val", "test"), "vtab": ("train800", "val200", "test")}
"""Names of the lists of train, val and test, without ``.txt``, by suite."""

JOINT = "train800val200"
"""VTAB-1k: name of the list of train and val together, which other code reads."""

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
    recorded = manifest and val_name in manifest.splits
    given = (folder / f"{val_name}.txt").exists() or recorded or task.suite == "vtab"
    val = _items(task, folder, val_name) if given else None
    return TaskSplits(train, val, test, class_names, source, notes)


def _items(task: Task, folder: Path, name: str) -> tuple[Item, ...]:
    return tuple(starmap(Item, read_list(folder / f"{name}.txt", folder, task.num_classes).items()))


LAYOUT = Layout("lists", required_files, locate, read)

"""What a layout is: one way in which a task's files lie in a folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError


@dataclass(frozen=True, eq=False)
class TaskSplits:
    """The images of a task as one layout gives them.

    Args:
        train: Training images. Labels lie in [0, ``task.num_classes``).
        val: Validation images. None where the layout does not name any.
        test: Test images.
        class_names: Names of the classes, in the order of the labels.
        source: Layout, version and folder of the images, for people and records.
        notes: Known differences between these images or splits and the published ones.
    """

    train: tuple[Item, ...]
    val: tuple[Item, ...] | None
    test: tuple[Item, ...]
    class_names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()


class Layout(NamedTuple):
    """One way in which a task's files lie in a folder.

    Args:
        name: Name of the layout, as in the option ``layout``.
        find: Function from a task and a root to the task's own folder in this layout, at or below
            the root, or None. It searches for file names and opens no file, because all layouts
            are tried at every start.
        required_files: Function from a task to one line that names the files ``find`` searches
            for. The line is empty if the layout does not exist for the task.
        read: Function from a task and the folder that ``find`` gave to the images. It decodes no
            image, and raises a ``UsageError`` that names the file (and line) of any fault.
    """

    name: str
    find: Callable[[Task, Path], Path | None]
    required_files: Callable[[Task], str]
    read: Callable[[Task, Path], TaskSplits]


def task_folders(task: Task, root: Path) -> Iterator[Path]:
    """Yield the existing folders that may be the task's own, the most likely first.

    These are ``root`` and the folders named after the task, in ``root`` or in a suite's folder
    (``vtab-1k``, ``fgvc``) in it. Names are compared without case, ``-`` and ``_``.
    """
    names = [normalized(name) for name in (task.name, *task.folders)]
    suites = {"vtab", "vtab1k"} if task.suite == "vtab" else {"fgvc"}
    if not root.is_dir():
        return
    yield root
    parents = [root, *(path for path in _subfolders(root) if normalized(path.name) in suites)]
    for parent in parents:
        named = [path for path in _subfolders(parent) if normalized(path.name) in names]
        yield from sorted(named, key=lambda path: names.index(normalized(path.name)))


def _subfolders(parent: Path) -> list[Path]:
    try:
        return [path for path in sorted(parent.iterdir()) if path.is_dir()]
    except OSError as error:
        raise UsageError(
            f"{parent}: cannot be read ({error.strerror}); give another root"
        ) from error


def normalized(name: str) -> str:
    """Return the name of a folder in lower case, without ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")


def require_classes(count: int, task: Task, file: Path, kind: str = "classes") -> None:
    """Check the number of classes in a file.

    Args:
        count: Number of classes in the file.
        task: Task that the file belongs to.
        file: File that an error names.
        kind: Kind of entries that were counted.

    Raises:
        UsageError: If ``count`` is not the task's number of classes.
    """
    if count != task.num_classes:
        raise UsageError(
            f"{file}: {count} {kind}, but {task.name} ({task.title}) has {task.num_classes} "
            "classes; get the complete file of this task"
        )

"""What a layout is: one way in which a task's files lie in a folder."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pcvpt.data.image_files import named_errors
from pcvpt.data.splits import TaskSplits
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError


class Layout(NamedTuple):
    """One way in which a task's files lie in a folder.

    Args:
        name: Name of the layout, as in the option ``layout``.
        required_files: Names the files ``find`` searches for, in one line. The line is empty if
            the layout does not exist for the task.
        locate: Returns the folder of the files in a folder that may be the task's own, or None. It
            opens no file, because all layouts are tried at every start.
        read: Returns the images in the folder that ``find`` gave. It decodes no image, and raises
            a ``UsageError`` that names the file (and line) of any fault.
    """

    name: str
    required_files: Callable[[Task], str]
    locate: Callable[[Task, Path], Path | None]
    read: Callable[[Task, Path], TaskSplits]

    def find(self, task: Task, root: Path) -> Path | None:
        """Return the folder of the task's files at or below ``root``, or None."""
        if not self.required_files(task):
            return None
        found = (self.locate(task, folder) for folder in task_folders(task, root))
        return next(filter(None, found), None)


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
    with named_errors(parent, "give an existing folder that may be read"):
        return [path for path in sorted(parent.iterdir()) if path.is_dir()]


def normalized(name: str) -> str:
    """Return the name of a folder in lower case, without ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")


def require_classes(count: int, task: Task, file: Path, kind: str = "classes") -> None:
    """Raise a ``UsageError`` that names ``file`` if ``task`` does not have ``count`` classes."""
    if count != task.num_classes:
        raise UsageError(
            f"{file}: {count} {kind}, but {task.name} ({task.title}) has {task.num_classes} "
            "classes; get the complete file of this task"
        )


@dataclass(eq=False)
class OpenFile(ABC):
    """A file that each process opens on first use, and that is pickled without its handle."""

    path: Path
    _handle: Any = field(default=None, init=False)
    _process: int = field(default=0, init=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_process": 0}

    @abstractmethod
    def open(self) -> Any:
        """Open the file and return its handle."""

    @property
    def handle(self) -> Any:
        """What ``open`` returned; a forked process does not share that of its parent."""
        if self._process != os.getpid():
            with named_errors(self.path):
                self._handle, self._process = self.open(), os.getpid()
        return self._handle

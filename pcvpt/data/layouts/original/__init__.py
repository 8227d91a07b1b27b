"""The five FGVC tasks as their authors distribute them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pcvpt.data.layouts.base import Layout, TaskSplits, task_folders
from pcvpt.data.layouts.original import birds, cars, dogs, flowers
from pcvpt.data.tasks.task import Task


class _Original(NamedTuple):
    has_files: Callable[[Task, Path], bool]
    required_files: str
    read: Callable[[Task, Path], TaskSplits]


_BIRDS = _Original(birds.has_files, birds.REQUIRED_FILES, birds.read)
_ORIGINALS = {
    "cub": _BIRDS,
    "nabirds": _BIRDS,
    "flowers": _Original(flowers.has_files, flowers.REQUIRED_FILES, flowers.read),
    "dogs": _Original(dogs.has_files, dogs.REQUIRED_FILES, dogs.read),
    "cars": _Original(cars.has_files, cars.REQUIRED_FILES, cars.read),
}


def find(task: Task, root: Path) -> Path | None:
    """Return the folder with the files that name images, classes and splits."""
    if task.name not in _ORIGINALS:
        return None
    has_files = _ORIGINALS[task.name].has_files
    return next((folder for folder in task_folders(task, root) if has_files(task, folder)), None)


def required_files(task: Task) -> str:
    """Name the files that ``find`` searches for; see ``Layout.required_files``."""
    return _ORIGINALS[task.name].required_files if task.name in _ORIGINALS else ""


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the official splits; of the five tasks only Flowers has a validation split.

    Raises:
        UsageError: Naming the file, and the line of a text file, for any fault.
    """
    return _ORIGINALS[task.name].read(task, folder)


LAYOUT = Layout("original", find, required_files, read)

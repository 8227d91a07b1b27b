"""The five FGVC tasks as their authors distribute them."""

from pathlib import Path

from pcvpt.data.layouts.base import Layout
from pcvpt.data.layouts.original import birds, cars, dogs, flowers
from pcvpt.data.splits import TaskSplits
from pcvpt.data.tasks.table import Task

# Each has REQUIRED_FILES, has_files(task, folder) and read(task, folder).
_ORIGINALS = {"cub": birds, "nabirds": birds, "flowers": flowers, "dogs": dogs, "cars": cars}


def required_files(task: Task) -> str:
    """Name the files that name images, classes and splits; see ``Layout``."""
    return _ORIGINALS[task.name].REQUIRED_FILES if task.name in _ORIGINALS else ""


def locate(task: Task, folder: Path) -> Path | None:
    """Return ``folder`` if it has the files."""
    return folder if _ORIGINALS[task.name].has_files(task, folder) else None


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the official splits; of the five tasks only Flowers has a validation split."""
    splits: TaskSplits = _ORIGINALS[task.name].read(task, folder)
    return splits


LAYOUT = Layout("original", required_files, locate, read)

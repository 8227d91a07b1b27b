"""The five FGVC tasks as their authors distribute them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pcvpt.data.layouts.base import Layout, Reading, places
from pcvpt.data.layouts.original import birds, cars, dogs, flowers
from pcvpt.data.tasks.task import Task


class _Original(NamedTuple):
    there: Callable[[Task, Path], bool]
    expected: str
    read: Callable[[Task, Path], Reading]


_BIRDS = _Original(birds.there, birds.EXPECTED, birds.read)
_ORIGINALS = {
    "cub": _BIRDS,
    "nabirds": _BIRDS,
    "flowers": _Original(flowers.there, flowers.EXPECTED, flowers.read),
    "dogs": _Original(dogs.there, dogs.EXPECTED, dogs.read),
    "cars": _Original(cars.there, cars.EXPECTED, cars.read),
}


def find(task: Task, root: Path) -> Path | None:
    """Return the folder with the files that name images, classes and splits."""
    if task.name not in _ORIGINALS:
        return None
    there = _ORIGINALS[task.name].there
    return next((folder for folder in places(task, root) if there(task, folder)), None)


def expected(task: Task) -> str:
    """Say what ``find`` looks for."""
    return _ORIGINALS[task.name].expected if task.name in _ORIGINALS else ""


def read(task: Task, folder: Path) -> Reading:
    """Read the official splits; of the five only Flowers has a validation split.

    Raises:
        UsageError: naming the file, and the line of a text file, for whatever is wrong.
    """
    return _ORIGINALS[task.name].read(task, folder)


LAYOUT = Layout("original", find, expected, read)

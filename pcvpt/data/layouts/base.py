"""What a layout is: a way in which a task's files lie in a folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError


@dataclass(frozen=True, eq=False)
class Reading:
    """A task's images as one layout gives them.

    Labels lie in [0, ``task.num_classes``). ``val`` is None where the layout does not say which
    images are for validation. ``source`` is for people and records: layout, version, place.
    ``notes`` say how the images or splits may differ from the published ones.
    """

    train: tuple[Item, ...]
    val: tuple[Item, ...] | None
    test: tuple[Item, ...]
    class_names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = field(default=())


class Layout(NamedTuple):
    """A way in which a task's files lie in a folder.

    Args:
        name: as in the option ``layout``.
        find: the task's own folder in this layout, at or below a root, or None. It looks for names
            of files and opens none, so that all layouts can be tried at every start.
        expected: what was looked for, in one line for an error; empty if this layout does not
            exist for the task.
        read: the images in the folder that ``find`` gave. It raises a ``UsageError`` that names the
            file (and line) for whatever is wrong, and decodes no images.
    """

    name: str
    find: Callable[[Task, Path], Path | None]
    expected: Callable[[Task], str]
    read: Callable[[Task, Path], Reading]


def places(task: Task, root: Path) -> Iterator[Path]:
    """Yield the existing folders that may be the task's own, likeliest first.

    They are ``root`` and, in it or in a suite's folder (``vtab-1k``, ``fgvc``) in it, those named
    after the task. Names are compared without case, ``-`` and ``_``.
    """
    names = [plain(name) for name in (task.name, *task.folders)]
    suites = {"vtab", "vtab1k"} if task.suite == "vtab" else {"fgvc"}
    if not root.is_dir():
        return
    yield root
    parents = [root, *(path for path in _folders(root) if plain(path.name) in suites)]
    for parent in parents:
        folders = _folders(parent)
        named = [path for path in folders if plain(path.name) in names]
        yield from sorted(named, key=lambda path: names.index(plain(path.name)))


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in sorted(parent.iterdir()) if path.is_dir()]
    except OSError as error:
        raise UsageError(
            f"{parent}: cannot be read ({error.strerror}); give another root"
        ) from error


def plain(name: str) -> str:
    """Return the name of a folder without what is not compared: case, ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")

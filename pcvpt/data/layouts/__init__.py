"""The ways in which the 24 tasks lie on disk, and which of them is there."""

from pathlib import Path
from typing import NamedTuple

from pcvpt.data.layouts import fgvc_json, lists, original
from pcvpt.data.layouts.base import Layout, Reading, places
from pcvpt.data.layouts.tfds import layout as tfds
from pcvpt.data.layouts.torchvision import layout as torchvision
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

__all__ = ["LAYOUTS", "Found", "Layout", "Reading", "find", "find_all"]

_SHOWN = 8  # names in a folder that an error spells out

LAYOUTS = tuple(
    module.LAYOUT for module in (fgvc_json, original, lists, tfds, torchvision)
)  # of several that are there, the first is taken


class Found(NamedTuple):
    """A layout of a task that is on disk."""

    layout: Layout
    folder: Path

    def read(self, task: Task) -> Reading:
        """Return the images; see ``Layout.read``."""
        return self.layout.read(task, self.folder)

    def __str__(self) -> str:
        return f"{self.layout.name} in {self.folder}"


def find_all(task: Task, root: Path) -> list[Found]:
    """Return the layouts of ``task`` at or below ``root``, the one to take first."""
    folders = [(layout, layout.find(task, root)) for layout in LAYOUTS]
    return [Found(layout, folder) for layout, folder in folders if folder is not None]


def find(task: Task, root: Path, name: str | None = None) -> Found:
    """Return the layout called ``name``, or the first that is there.

    Raises:
        UsageError: if there is none, with what was looked for and the command that gets it.
    """
    known = [layout.name for layout in LAYOUTS if layout.expected(task)]
    if name is not None and name not in known:
        raise UsageError(f"layout is {name!r}, but for {task.name} there are {', '.join(known)}")
    found = [each for each in find_all(task, root) if name in (None, each.layout.name)]
    if found:
        return found[0]
    looked = [
        f"  {layout.name}: {layout.expected(task)}"
        for layout in LAYOUTS
        if layout.expected(task) and name in (None, layout.name)
    ]
    raise UsageError(
        f"{root}: no {task.name} ({task.title}) here; `pcvpt data get {task.name} --root {root}` "
        "gets it or says how. In this folder, or one in it named "
        f"{' or '.join(dict.fromkeys((task.name, *task.folders)))} (case, - and _ do not count), "
        "was looked for\n" + "\n".join(looked + _there(task, root))
    )


def _there(task: Task, root: Path) -> list[str]:
    """Say what lies in folders of the right name, where a file of a layout may be missing."""
    lines = []
    for folder in places(task, root):
        names = sorted(path.name for path in folder.iterdir())
        if folder != root and names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"  in {folder} there are: {', '.join(names[:_SHOWN])}{more}")
    return lines

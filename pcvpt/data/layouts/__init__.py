"""The layouts in which the 24 tasks lie on disk, and the search for them."""

from pathlib import Path
from typing import NamedTuple

from pcvpt.data.layouts import fgvc_json, lists, original, tfds, torchvision
from pcvpt.data.layouts.base import Layout, task_folders
from pcvpt.data.splits import TaskSplits
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError

__all__ = ["LAYOUTS", "Found", "Layout", "TaskSplits", "find", "find_all"]

_MAX_NAMES = 8  # names in a folder that an error lists

LAYOUTS = tuple(module.LAYOUT for module in (fgvc_json, original, lists, tfds, torchvision))
"""All layouts. Where several are on disk, the first is taken."""


class Found(NamedTuple):
    """A layout of a task that is on disk, and the folder of its files."""

    layout: Layout
    folder: Path

    def read(self, task: Task) -> TaskSplits:
        """Return the images; see ``Layout.read``."""
        return self.layout.read(task, self.folder)

    def __str__(self) -> str:
        return f"{self.layout.name} in {self.folder}"


def find_all(task: Task, root: Path) -> list[Found]:
    """Return the layouts of ``task`` at or below ``root``, in the order of preference."""
    folders = [(layout, layout.find(task, root)) for layout in LAYOUTS]
    return [Found(layout, folder) for layout, folder in folders if folder is not None]


def find(task: Task, root: Path, name: str | None = None) -> Found:
    """Return one layout of ``task`` at or below ``root``, the first if no name is given.

    Raises:
        UsageError: If there is none. The error names the files that were searched for and the
            command that gets them.
    """
    wanted = [layout for layout in LAYOUTS if layout.required_files(task)]
    if name is not None:
        known = ", ".join(layout.name for layout in wanted)
        wanted = [layout for layout in wanted if layout.name == name]
        if not wanted:
            raise UsageError(f"layout is {name!r}, but {task.name} has the layouts {known}")
    for found in find_all(task, root):
        if found.layout in wanted:
            return found
    searched = [f"  {layout.name}: {layout.required_files(task)}" for layout in wanted]
    raise UsageError(
        f"{root}: no {task.name} ({task.title}) here; `pcvpt data get {task.name} --root {root}` "
        "downloads it or lists the steps. This folder, and folders in it named "
        f"{' or '.join(dict.fromkeys((task.name, *task.folders)))} (case, - and _ do not count), "
        "were searched for\n" + "\n".join(searched + _contents(task, root))
    )


def _contents(task: Task, root: Path) -> list[str]:
    """List what folders of the right name hold, where a file of a layout may be missing."""
    lines = []
    for folder in task_folders(task, root):
        names = sorted(path.name for path in folder.iterdir())
        if folder != root and names:
            more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
            lines.append(f"  {folder} holds {', '.join(names[:_MAX_NAMES])}{more}")
    return lines

"""The JSON splits of the VPT release for the five FGVC tasks."""

from pathlib import Path

from pcvpt.data.layouts.base import Layout, Reading, places
from pcvpt.data.readers.json_splits import read_json_splits
from pcvpt.data.readers.listed_images import subfolder
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError


def find(task: Task, root: Path) -> Path | None:
    """Return the folder with the two files that no task can do without."""
    if task.suite != "fgvc":
        return None
    for folder in places(task, root):
        if (folder / "train.json").is_file() and (folder / "test.json").is_file():
            return folder
    return None


def expected(task: Task) -> str:
    """Say what ``find`` looks for."""
    if task.suite != "fgvc":
        return ""
    images = f"{task.images}/" if task.images else "the same folder"
    return (
        "train.json, test.json and, if there is one, val.json, "
        f'each {{"path of an image in {images}": class id, ...}}'
    )


def read(task: Task, folder: Path) -> Reading:
    """Read the splits; ``val`` is None without ``val.json``.

    Raises:
        UsageError: as ``read_json_splits``, and if train does not have the task's classes.
    """
    images = subfolder(folder, task.images) if task.images else folder
    train, val, test = (folder / f"{split}.json" for split in ("train", "val", "test"))
    splits = read_json_splits(images, train, val if val.exists() else None, test)
    if len(splits.class_names) != task.num_classes:
        raise UsageError(
            f"{train}: images of {len(splits.class_names)} classes, but {task.name} "
            f"({task.title}) has {task.num_classes}; give the complete file of this task"
        )
    return Reading(*splits, source=f"JSON splits in {folder}")


LAYOUT = Layout("json", find, expected, read)

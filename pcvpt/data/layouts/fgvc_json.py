"""The JSON splits of the VPT release for the five FGVC tasks."""

from dataclasses import replace
from pathlib import Path

from pcvpt.data.layouts.base import Layout, require_classes
from pcvpt.data.readers.listed_images import subfolder
from pcvpt.data.readers.listed_splits import read_json_splits
from pcvpt.data.splits import TaskSplits
from pcvpt.data.tasks.table import Task


def required_files(task: Task) -> str:
    """Name the files of a task; see ``Layout``."""
    if task.suite != "fgvc":
        return ""
    images = f"{task.images}/" if task.images else "the same folder"
    return (
        "train.json, test.json and optionally val.json, "
        f'each {{"path of an image in {images}": class id, ...}}'
    )


def locate(task: Task, folder: Path) -> Path | None:
    """Return ``folder`` if it has the two files that every task has."""
    files = (folder / "train.json").is_file() and (folder / "test.json").is_file()
    return folder if files else None


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the splits; ``val`` is None without ``val.json``."""
    images = subfolder(folder, task.images) if task.images else folder
    train, val, test = (folder / f"{split}.json" for split in ("train", "val", "test"))
    splits = read_json_splits(images, train, val if val.exists() else None, test)
    require_classes(len(splits.class_names), task, train)
    return replace(splits, source=f"JSON splits in {folder}")


LAYOUT = Layout("json", required_files, locate, read)

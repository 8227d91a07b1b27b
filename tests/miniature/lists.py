"""A task as list files in miniature, the way they are in circulation: JPEGs and no record.

Labels do not follow the order of the files, and no two images are alike.
"""

from dataclasses import replace
from pathlib import Path

from miniature.images import write_noise
from pcvpt.data.tasks.table import TASKS, Task

LABELS = {"train": (2, 0, 1, 1, 0, 2), "val": (1, 2, 0), "test": (0, 0, 2, 1)}
"""What a reader must find in the files of ``write``."""


def row(name: str) -> Task:
    """Return the row of a task, made to the size of what ``write`` writes."""
    return replace(TASKS[name], num_classes=3, train=6, val=3, test=4)


def write(task: Task, folder: Path) -> Path:
    """Write a task's lists and images into ``folder`` and return it."""
    names = {"train": "train800", "val": "val200"} if task.suite == "vtab" else {}
    lists: dict[str, list[tuple[str, int]]] = {}
    for number, (split, labels) in enumerate(LABELS.items()):
        name = names.get(split, split)
        lists[name] = []
        for index, label in enumerate(labels):
            path = f"images/{name}/{index:06}.jpg"
            write_noise(folder / path, 100 * number + index)
            lists[name].append((path, label % task.num_classes))
    if task.suite == "vtab":
        lists["train800val200"] = lists["train800"] + lists["val200"]
    for name, entries in lists.items():
        lines = "".join(f"{path} {label}\n" for path, label in entries)
        (folder / f"{name}.txt").write_text(lines)
    return folder

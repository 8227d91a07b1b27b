"""A task as list files in miniature, the way they are in circulation: JPEGs and no record.

Labels do not follow the order of the files, and no two images are alike.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from miniature.images import write_noise
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tasks.task import Task

LABELS = {"train": (2, 0, 1, 1, 0, 2), "val": (1, 2, 0), "test": (0, 0, 2, 1)}
"""What a reader must find in the files of ``write``."""


def row(name: str) -> Task:
    """Return the row of a task, made to the size of what ``write`` writes."""
    return replace(TASKS[name], num_classes=3, train=6, val=3, test=4)


def write(task: Task, folder: Path, joint: str = "same files") -> Path:
    """Write a task's lists and images into ``folder`` and return it.

    ``joint``: for VTAB, whether train800val200.txt names the ``same files`` as the other lists or
    ``copies`` of them in a separate folder, or is ``absent``.
    """
    names = {"train": "train800", "val": "val200"} if task.suite == "vtab" else {}
    lists: dict[str, list[tuple[str, int]]] = {}
    for number, (split, labels) in enumerate(LABELS.items()):
        name = names.get(split, split)
        lists[name] = []
        for index, label in enumerate(labels):
            path = f"images/{name}/{index:06}.jpg"
            write_noise(folder / path, 100 * number + index)
            lists[name].append((path, label % task.num_classes))
    if task.suite == "vtab" and joint != "absent":
        both = lists["train800val200"] = lists["train800"] + lists["val200"]
        if joint == "copies":
            (folder / "images/train800val200").mkdir()
            for index, (path, label) in enumerate(both):
                copy = f"images/train800val200/{index:06}.jpg"
                shutil.copy(folder / path, folder / copy)
                both[index] = copy, label
    for name, entries in lists.items():
        lines = "".join(f"{path} {label}\n" for path, label in entries)
        (folder / f"{name}.txt").write_text(lines)
    return folder

"""A task as list files in miniature, the way they are in circulation: JPEGs and no record.

Labels do not follow the order of the files, and no two images are alike.
"""

from dataclasses import replace
from pathlib import Path

from miniature.images import write_noise
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tasks.task import Task

LABELS = {
    "train": (2, 0, 1, 1, 0, 2),
    "val": (1, 2, 0),
    "test": (0, 0, 2, 1),
}
"""What a reader must find in the files of ``write``."""

NAMES = {
    "fgvc": {"train": "train", "val": "val", "test": "test"},
    "vtab": {"train": "train800", "val": "val200", "test": "test"},
}


def row(name: str) -> Task:
    """Return the row of a task, made to the size of what ``write`` writes."""
    return replace(TASKS[name], num_classes=3, train=6, val=3, test=4)


def write(task: Task, folder: Path, joint: str = "same files") -> Path:
    """Write a task's lists and images into ``folder`` and return it.

    ``joint``: for VTAB, whether train800val200.txt names the ``same files`` as the other lists or
    ``copies`` of them in a separate folder, or is ``absent``.
    """
    lines: dict[str, list[str]] = {}
    content: list[tuple[bytes, int]] = []
    for number, (split, labels) in enumerate(LABELS.items()):
        name = NAMES[task.suite][split]
        lines[name] = []
        for index, label in enumerate(label % task.num_classes for label in labels):
            path = f"images/{name}/{index:06}.jpg"
            write_noise(folder / path, 100 * number + index)
            lines[name].append(f"{path} {label}")
            if split != "test":
                content.append(((folder / path).read_bytes(), label))
    if task.suite == "vtab" and joint == "same files":
        lines["train800val200"] = lines["train800"] + lines["val200"]
    if task.suite == "vtab" and joint == "copies":
        (folder / "images/train800val200").mkdir()
        lines["train800val200"] = []
        for index, (image, label) in enumerate(content):
            path = f"images/train800val200/{index:06}.jpg"
            (folder / path).write_bytes(image)
            lines["train800val200"].append(f"{path} {label}")
    for name, each in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(each) + "\n")
    return folder

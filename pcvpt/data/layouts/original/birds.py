"""CUB-200-2011 and NABirds as their authors give them: four text files and a folder of images.

Each line of ``images.txt`` (path), ``train_test_split.txt`` (1 for train) and
``image_class_labels.txt`` (class id) begins with the id of an image, each line of ``classes.txt``
(name) with that of a class. Of the 1,011 classes in NABirds' hierarchy 555 have images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pcvpt.data.layouts.base import require_classes
from pcvpt.data.readers.listed_images import listed_path, read_text, require_images, subfolder
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

_IMAGES, _SPLIT = "images.txt", "train_test_split.txt"
_CLASS_IDS, _CLASSES = "image_class_labels.txt", "classes.txt"
REQUIRED_FILES = f"{_IMAGES}, {_SPLIT}, {_CLASS_IDS} and {_CLASSES}, with the images in images/"
# The two have the same files, except for some that are not read. The other task has this one.
_OTHER_TASK = {"cub": "hierarchy.txt", "nabirds": "attributes"}
_Value = TypeVar("_Value")


def has_files(task: Task, folder: Path) -> bool:
    """Return whether the files are in ``folder``, and not those of the other task."""
    files = all((folder / name).is_file() for name in (_IMAGES, _SPLIT, _CLASS_IDS))
    return files and not (folder / _OTHER_TASK[task.name]).exists()


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the two official splits; the classes are those that have images, by their ids."""
    images = subfolder(folder, "images")
    paths = _read_table(folder / _IMAGES, lambda text, where: listed_path(images, text, where))
    is_train = _read_table(folder / _SPLIT, _flag)
    ids = _read_table(folder / _CLASS_IDS, _class_id)
    names = {
        _class_id(class_id, str(folder / _CLASSES)): name
        for class_id, name in _read_table(folder / _CLASSES, lambda text, where: text).items()
    }
    used = sorted(set(ids.values()))
    for name, needed, given, what in (
        (_SPLIT, paths, is_train, "line for image"),
        (_CLASS_IDS, paths, ids, "line for image"),
        (_IMAGES, is_train, paths, "image"),
        (_IMAGES, ids, paths, "image"),
        (_CLASSES, used, names, "name of class"),
    ):
        if missing := set(needed) - set(given):
            raise UsageError(
                f"{folder / name}: no {what} {min(missing, key=str)}; get the files again"
            )
    require_classes(len(used), task, folder / _CLASS_IDS)
    if len(set(is_train.values())) == 1:
        raise UsageError(f"{folder / _SPLIT}: all images are in one split; get the file again")
    require_images(paths.values(), folder / _IMAGES)
    labels = {class_id: label for label, class_id in enumerate(used)}
    items = {image: Item(path, labels[ids[image]]) for image, path in paths.items()}
    return TaskSplits(
        train=tuple(item for image, item in items.items() if is_train[image]),
        val=None,
        test=tuple(item for image, item in items.items() if not is_train[image]),
        class_names=tuple(names[class_id] for class_id in used),
        source=f"original files in {folder}",
    )


def _read_table(file: Path, parse: Callable[[str, str], _Value]) -> dict[str, _Value]:
    """Read lines of ``key value``.

    ``parse`` gets the text of a value, which may contain blanks, and the line's place for errors.
    """
    values: dict[str, _Value] = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        fields = line.split(maxsplit=1)
        if not fields:
            continue
        where = f"{file}:{number}"
        if len(fields) == 1:
            raise UsageError(f"{where}: {fields[0]!r} is one field; expected 'id value'")
        if fields[0] in values:
            raise UsageError(f"{where}: {fields[0]} is listed twice; get the file again")
        values[fields[0]] = parse(fields[1].strip(), where)
    if not values:
        raise UsageError(f"{file}: empty; get the file again")
    return values


def _flag(text: str, where: str) -> bool:
    if text not in ("0", "1"):
        raise UsageError(f"{where}: {text!r} is neither 1 (train) nor 0 (test); get the file again")
    return text == "1"


def _class_id(text: str, where: str) -> int:
    if not (text.isdecimal() and len(text) < 10):
        raise UsageError(f"{where}: class {text!r} is not a number; get the file again")
    return int(text)

"""CUB-200-2011 and NABirds as their authors give them: four text files and a folder of images.

Each line of ``images.txt`` (path), ``train_test_split.txt`` (1 for train) and
``image_class_labels.txt`` (class id) begins with the id of an image, each line of ``classes.txt``
(name) with that of a class. Of the 1,011 classes in NABirds' hierarchy 555 have images.
"""

import re
from pathlib import Path

from pcvpt.data.layouts.base import require_classes
from pcvpt.data.readers.listed_images import listed_path, read_lines, require_images, subfolder
from pcvpt.data.splits import Item, TaskSplits, parted
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError

_IMAGES, _SPLIT = "images.txt", "train_test_split.txt"
_CLASS_IDS, _CLASSES = "image_class_labels.txt", "classes.txt"
REQUIRED_FILES = f"{_IMAGES}, {_SPLIT}, {_CLASS_IDS} and {_CLASSES}, with the images in images/"
# The two have the same files, except for some that are not read. The other task has this one.
_OTHER_TASK = {"cub": "hierarchy.txt", "nabirds": "attributes"}


def has_files(task: Task, folder: Path) -> bool:
    """Return whether the files are in ``folder``, and not those of the other task."""
    files = all((folder / name).is_file() for name in (_IMAGES, _SPLIT, _CLASS_IDS))
    return files and not (folder / _OTHER_TASK[task.name]).exists()


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the two official splits; the classes are those that have images, by their ids."""
    images = subfolder(folder, "images")
    paths = {
        image: listed_path(images, name, f"{folder / _IMAGES}: image {image}")
        for image, name in _read_table(folder / _IMAGES).items()
    }
    is_train = _read_table(folder / _SPLIT, "[01]", "1 (train) or 0 (test)")
    ids = _read_table(folder / _CLASS_IDS, "[0-9]{1,9}", "the number of a class")
    names = _read_table(folder / _CLASSES)
    used = sorted(set(ids.values()), key=int)
    for name, needed, given, what in (
        (_SPLIT, paths, is_train, "line for image"),
        (_CLASS_IDS, paths, ids, "line for image"),
        (_IMAGES, is_train, paths, "image"),
        (_IMAGES, ids, paths, "image"),
        (_CLASSES, used, names, "name of class"),
    ):
        if missing := set(needed) - set(given):
            raise UsageError(f"{folder / name}: no {what} {min(missing)}; get the files again")
    require_classes(len(used), task, folder / _CLASS_IDS)
    if len(set(is_train.values())) == 1:
        raise UsageError(f"{folder / _SPLIT}: all images are in one split; get the file again")
    require_images(paths.values(), folder / _IMAGES)
    labels = {class_id: label for label, class_id in enumerate(used)}
    items = [Item(path, labels[ids[image]]) for image, path in paths.items()]
    train, test = parted(items, {n for n, image in enumerate(paths) if is_train[image] == "0"})
    class_names = tuple(names[class_id] for class_id in used)
    return TaskSplits(train, None, test, class_names, f"original files in {folder}")


def _read_table(file: Path, form: str = ".+", expected: str = "") -> dict[str, str]:
    """Read lines of ``id value``; a value may contain blanks and matches ``form``."""
    values: dict[str, str] = {}
    for number, line in enumerate(read_lines(file), start=1):
        fields = line.split(maxsplit=1)
        if not fields:
            continue
        where = f"{file}:{number}"
        if len(fields) == 1:
            raise UsageError(f"{where}: {fields[0]!r} is one field; expected 'id value'")
        if fields[0] in values:
            raise UsageError(f"{where}: {fields[0]} is listed twice; get the file again")
        if not re.fullmatch(form, fields[1]):
            raise UsageError(f"{where}: {fields[1]!r} is not {expected}; get the file again")
        values[fields[0]] = fields[1]
    return values

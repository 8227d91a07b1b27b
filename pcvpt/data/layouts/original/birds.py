"""CUB-200-2011 and NABirds as their authors give them: four text files and a folder of images.

Each line of ``images.txt`` (path), ``train_test_split.txt`` (1 for train) and
``image_class_labels.txt`` (class id) begins with the id of an image, each line of ``classes.txt``
(name) with that of a class. Of the 1,011 classes in NABirds' hierarchy 555 have images.
"""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from pcvpt.data.layouts.base import Reading
from pcvpt.data.readers.listed_images import listed_path, read_text, require_images, subfolder
from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

_PATHS, _FLAGS, _IDS, _NAMES = (
    "images.txt",
    "train_test_split.txt",
    "image_class_labels.txt",
    "classes.txt",
)
EXPECTED = f"{_PATHS}, {_FLAGS}, {_IDS} and {_NAMES}, with the images in images/"
# The two have the same files but for some that are not read.
_OTHER = {"cub": "hierarchy.txt", "nabirds": "attributes"}
_INTEGER = re.compile(r"[0-9]{1,9}")
_Value = TypeVar("_Value")


def there(task: Task, folder: Path) -> bool:
    """Return whether the files are in ``folder``."""
    files = all((folder / name).is_file() for name in (_PATHS, _FLAGS, _IDS))
    return files and not (folder / _OTHER[task.name]).exists()


def read(task: Task, folder: Path) -> Reading:
    """Read the two official splits; the classes are those that have images, by their ids.

    Raises:
        UsageError: naming file and line, for whatever is wrong in a line; naming the file, if it
            lacks an image or class that another one has, or if not all the classes are there.
    """
    images = subfolder(folder, "images")
    paths = _table(folder / _PATHS, lambda text, where: listed_path(images, text, where))
    flags = _table(folder / _FLAGS, _flag)
    ids = _table(folder / _IDS, _integer)
    names = _class_names(folder / _NAMES)
    for file, table in (folder / _FLAGS, flags), (folder / _IDS, ids):
        _require_same(paths, table, file)
    used = sorted(set(ids.values()))
    unnamed = [class_id for class_id in used if class_id not in names]
    if unnamed:
        raise UsageError(f"{folder / _NAMES}: no name of class {unnamed[0]}; get the file anew")
    if len(used) != task.num_classes:
        raise UsageError(
            f"{folder / _IDS}: images of {len(used)} classes, but {task.name} ({task.title}) has "
            f"{task.num_classes}; give the complete files of this task"
        )
    if len(set(flags.values())) == 1:
        raise UsageError(f"{folder / _FLAGS}: all images are in one split; get the file anew")
    require_images(paths.values(), folder / _PATHS)
    labels = {class_id: label for label, class_id in enumerate(used)}
    items = {image: Item(path, labels[ids[image]]) for image, path in paths.items()}
    return Reading(
        train=tuple(item for image, item in items.items() if flags[image]),
        val=None,
        test=tuple(item for image, item in items.items() if not flags[image]),
        class_names=tuple(names[class_id] for class_id in used),
        source=f"original files in {folder}",
    )


def _table(file: Path, parse: Callable[[str, str], _Value]) -> dict[str, _Value]:
    """Read lines of ``key value``; ``parse`` gets a value, which may hold blanks, and its line."""
    values: dict[str, _Value] = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        fields = line.split(maxsplit=1)
        if not fields:
            continue
        where = f"{file}:{number}"
        if len(fields) == 1:
            raise UsageError(f"{where}: {fields[0]!r} is one field; expected 'id value'")
        if fields[0] in values:
            raise UsageError(f"{where}: {fields[0]} is listed twice; get the file anew")
        values[fields[0]] = parse(fields[1].strip(), where)
    if not values:
        raise UsageError(f"{file}: empty; get the file anew")
    return values


def _class_names(file: Path) -> dict[int, str]:
    lines = _table(file, lambda text, where: text)
    return {_integer(class_id, str(file)): name for class_id, name in lines.items()}


def _flag(text: str, where: str) -> bool:
    if text not in ("0", "1"):
        raise UsageError(f"{where}: {text!r} is neither 1 (train) nor 0 (test); get the file anew")
    return text == "1"


def _integer(text: str, where: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise UsageError(f"{where}: class {text!r} is not a number; get the file anew")
    return int(text)


def _require_same(paths: Collection[str], others: Collection[str], file: Path) -> None:
    lacking = [image for image in paths if image not in others]
    if lacking:
        raise UsageError(f"{file}: no line for image {lacking[0]} of {_PATHS}; get both anew")
    extra = [image for image in others if image not in paths]
    if extra:
        raise UsageError(f"{file}: image {extra[0]} is not in {_PATHS}; get both anew")

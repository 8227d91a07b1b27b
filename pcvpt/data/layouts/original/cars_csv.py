"""Stanford Cars as two CSV files, one for each split, as copies of the data set bring them.

The copies differ in names of files and columns, in where the images lie, and in whether classes
begin with 0 or 1. So columns go by their names, images are sought where copies have them, and the
ids in train, in numeric order, are the classes.
"""

import csv
import io
import os
import re
from collections.abc import Sequence
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

from pcvpt.data.layouts.base import Reading
from pcvpt.data.readers.listed_images import listed_path, read_text, require_images
from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

EXPECTED = "cars_train_annos.csv and cars_test_annos.csv, or train.csv and test.csv, with a header"
_PAIRS = (
    ("cars_train_annos.csv", "cars_test_annos_withlabels.csv"),
    ("cars_train_annos.csv", "cars_test_annos.csv"),
    ("train.csv", "test.csv"),
)
_FILE_COLUMNS = ("relative_im_path", "path", "fname", "filename", "image")
_CLASS_COLUMNS = ("class_id", "class", "label", "target")  # if several, that with numbers
_ID = re.compile(r"([0-9]{1,9})(\.0+)?")  # tables with gaps are saved with "14.0"


def there(folder: Path) -> bool:
    """Return whether a pair of CSV files is in ``folder`` or its ``devkit``."""
    return _files(folder) is not None


def read(task: Task, folder: Path, class_names: tuple[str, ...]) -> Reading:
    """Read the two files; without ``class_names`` the classes are named after their ids.

    Raises:
        UsageError: naming file and line for whatever is wrong in one; naming the file for missing
            columns or images, an image in both splits, a class of test that train does not have,
            and if train does not have the task's classes.
    """
    train_file, test_file = _files(folder) or (folder / "train.csv", folder / "test.csv")
    train = _read_split(train_file, folder, "train")
    test = _read_split(test_file, folder, "test")
    classes = {class_id: label for label, class_id in enumerate(sorted(set(train.values())))}
    if len(classes) != task.num_classes:
        raise UsageError(
            f"{train_file}: images of {len(classes)} classes, but {task.name} ({task.title}) has "
            f"{task.num_classes}; give the complete file of this task"
        )
    for path, class_id in test.items():
        if class_id not in classes:
            raise UsageError(
                f"{test_file}: class {class_id} of {path} does not occur in {train_file.name}; "
                "give two files of one copy"
            )
        if path in train:
            raise UsageError(
                f"{test_file}: {path} is in {train_file.name} too; give each split its own images"
            )
    return Reading(
        train=tuple(starmap(Item, ((path, classes[key]) for path, key in train.items()))),
        val=None,
        test=tuple(starmap(Item, ((path, classes[key]) for path, key in test.items()))),
        class_names=class_names or tuple(map(str, classes)),
        source=f"CSV copy in {folder}",
        notes=(f"{train_file.name} and {test_file.name} are a copy, not the authors' own files",),
    )


class _Row(NamedTuple):
    where: str
    values: dict[str, str]


def _files(folder: Path) -> tuple[Path, Path] | None:
    for place in folder, folder / "devkit":
        for train, test in _PAIRS:
            if (place / train).is_file() and (place / test).is_file():
                return place / train, place / test
    return None


def _read_split(file: Path, folder: Path, split: str) -> dict[Path, int]:
    """Return the class id of each image, as it stands there."""
    rows = _rows(file)
    columns = tuple(rows[0].values)
    (named, *_) = _columns(file, columns, _FILE_COLUMNS)
    classes = _columns(file, columns, _CLASS_COLUMNS)
    numbered = [name for name in classes if _ID.fullmatch(rows[0].values[name])]
    class_column = (numbered or classes)[0]
    images = _images(folder, file.parent, split, rows[0].values[named])
    ids: dict[Path, int] = {}
    for where, values in rows:
        path = listed_path(images, values[named], where)
        class_id = _ID.fullmatch(values[class_column])
        if class_id is None:
            raise UsageError(
                f"{where}: {class_column} {values[class_column]!r} is not a whole number; "
                "give a file with the classes' numbers"
            )
        if path in ids:
            raise UsageError(f"{where}: {values[named]!r} is listed twice; remove one of the two")
        ids[path] = int(class_id[1])
    require_images(ids, file)
    return ids


def _rows(file: Path) -> list[_Row]:
    """Return the lines below the header, by the names in the header, in lower case."""
    reader = csv.reader(io.StringIO(read_text(file)), skipinitialspace=True)
    rows: list[_Row] = []
    header: list[str] = []
    try:
        for fields in reader:
            if not any(fields):
                continue
            if not header:
                header = [name.strip().lower() for name in fields]
                continue
            where = f"{file}:{reader.line_num}"
            if len(fields) != len(header):
                raise UsageError(
                    f"{where}: {len(fields)} fields, but the header has {len(header)}; "
                    "correct the line"
                )
            values = dict(zip(header, map(str.strip, fields), strict=True))
            rows.append(_Row(where, values))
    except csv.Error as error:
        raise UsageError(f"{file}:{reader.line_num}: not CSV ({error}); get it anew") from error
    if not rows:
        raise UsageError(f"{file}: no lines below the header; get it anew")
    return rows


def _columns(file: Path, columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    found = [name for name in wanted if name in columns]
    if not found:
        raise UsageError(
            f"{file}: the header is {', '.join(columns)[:200]!r}; expected a column "
            f"{' or '.join(wanted)}"
        )
    return found


def _images(folder: Path, beside: Path, split: str, first: str) -> Path:
    """Return the folder that the paths are relative to: the first that has the first image.

    Folders of one split go before those of both: file names are the same in train and test.
    """
    own = f"cars_{split}"
    likely = [folder / own, folder / own / own, folder / split]
    both = [folder, beside, folder / "images", folder / "cars"]
    for images in likely + both:
        if os.path.isfile(images / first):
            return images
    return folder

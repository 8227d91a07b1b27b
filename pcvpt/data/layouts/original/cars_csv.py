"""Stanford Cars as two CSV files, one for each split, as copies of the data set have them.

The copies differ in names of files and columns, in the place of the images, and in whether classes
begin with 0 or 1. So columns are recognised by their names, images are searched for where copies
have them, and the ids in train, in numeric order, are the classes.
"""

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pcvpt.data.layouts.base import require_classes
from pcvpt.data.readers.listed_images import listed_path, read_text, require_images
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

REQUIRED_FILES = (
    "cars_train_annos.csv and cars_test_annos.csv, or train.csv and test.csv, with a header"
)
_PAIRS = (
    ("cars_train_annos.csv", "cars_test_annos_withlabels.csv"),
    ("cars_train_annos.csv", "cars_test_annos.csv"),
    ("train.csv", "test.csv"),
)
_FILE_COLUMNS = ("relative_im_path", "path", "fname", "filename", "image")
_CLASS_COLUMNS = ("class_id", "class", "label", "target")  # if several, the one with numbers
_ID = re.compile(r"([0-9]{1,9})(\.0+)?")  # tables with gaps are saved with "14.0"


def find_files(folder: Path) -> tuple[Path, Path] | None:
    """Return the files of train and test in ``folder`` or its ``devkit``, or None."""
    for place in folder, folder / "devkit":
        for train, test in _PAIRS:
            if (place / train).is_file() and (place / test).is_file():
                return place / train, place / test
    return None


def read(task: Task, folder: Path, class_names: tuple[str, ...]) -> TaskSplits:
    """Read the two files; without ``class_names`` the classes are named after their ids."""
    train_file, test_file = find_files(folder) or (folder / "train.csv", folder / "test.csv")
    train = _read_split(train_file, folder, "train")
    test = _read_split(test_file, folder, "test")
    labels = {class_id: label for label, class_id in enumerate(sorted(set(train.values())))}
    require_classes(len(labels), task, train_file)
    for path, class_id in test.items():
        if class_id not in labels:
            raise UsageError(
                f"{test_file}: class {class_id} of {path} does not occur in {train_file.name}; "
                "give two files of one copy"
            )
        if path in train:
            raise UsageError(
                f"{test_file}: {path} is in {train_file.name} too; give each split its own images"
            )
    return TaskSplits(
        train=tuple(Item(path, labels[class_id]) for path, class_id in train.items()),
        val=None,
        test=tuple(Item(path, labels[class_id]) for path, class_id in test.items()),
        class_names=class_names or tuple(map(str, labels)),
        source=f"CSV copy in {folder}",
        notes=(f"{train_file.name} and {test_file.name} are a copy, not the authors' own files",),
    )


def _read_split(file: Path, folder: Path, split: str) -> dict[Path, int]:
    """Return the class id of each image as the file states it."""
    rows = _read_rows(file)
    first = next(iter(rows.values()))
    path_column = _columns(file, first, _FILE_COLUMNS)[0]
    class_columns = _columns(file, first, _CLASS_COLUMNS)
    numbered = [name for name in class_columns if _ID.fullmatch(first[name])]
    class_column = (numbered or class_columns)[0]
    images = _images(folder, file.parent, split, first[path_column])
    ids: dict[Path, int] = {}
    for where, row in rows.items():
        path = listed_path(images, row[path_column], where)
        class_id = _ID.fullmatch(row[class_column])
        if class_id is None:
            raise UsageError(
                f"{where}: {class_column} {row[class_column]!r} is not a whole number; "
                "give a file with the classes' numbers"
            )
        if path in ids:
            raise UsageError(f"{where}: {row[path_column]!r} is listed twice; remove one line")
        ids[path] = int(class_id[1])
    require_images(ids, file)
    return ids


def _read_rows(file: Path) -> dict[str, dict[str, str]]:
    """Return, for each line below the header, its place (for errors) and its values.

    Values are named by the header, in lower case.
    """
    reader = csv.reader(io.StringIO(read_text(file)), skipinitialspace=True)
    try:
        lines = [(f"{file}:{reader.line_num}", fields) for fields in reader if any(fields)]
    except csv.Error as error:
        raise UsageError(f"{file}:{reader.line_num}: not CSV ({error}); get it again") from error
    if len(lines) < 2:
        raise UsageError(f"{file}: no lines below the header; get it again")
    header = [name.strip().lower() for name in lines[0][1]]
    rows = {}
    for where, fields in lines[1:]:
        if len(fields) != len(header):
            raise UsageError(
                f"{where}: {len(fields)} fields, but the header has {len(header)}; correct the line"
            )
        rows[where] = dict(zip(header, map(str.strip, fields), strict=True))
    return rows


def _columns(file: Path, row: dict[str, str], wanted: Sequence[str]) -> list[str]:
    found = [name for name in wanted if name in row]
    if not found:
        raise UsageError(
            f"{file}: the header is {', '.join(row)[:200]!r}; expected a column "
            f"{' or '.join(wanted)}"
        )
    return found


def _images(folder: Path, beside: Path, split: str, first: str) -> Path:
    """Return the folder that the paths are relative to: the first that has the first image.

    Folders of one split come before those of both: file names are the same in train and test.
    """
    own = f"cars_{split}"
    likely = [folder / own, folder / own / own, folder / split]
    both = [folder, beside, folder / "images", folder / "cars"]
    return next((images for images in likely + both if os.path.isfile(images / first)), folder)

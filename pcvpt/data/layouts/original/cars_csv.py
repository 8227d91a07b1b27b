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
from dataclasses import replace
from pathlib import Path

from pcvpt.data.image_files import named_errors
from pcvpt.data.layouts.base import require_classes
from pcvpt.data.readers.listed_images import listed_path, read_text
from pcvpt.data.readers.listed_splits import ClassIds, checked_ids, listed_splits
from pcvpt.data.splits import TaskSplits
from pcvpt.data.tasks.table import Task
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
_GAP = re.compile(r"\.0+$")  # tables with gaps are saved with "14.0"


def find_files(folder: Path) -> tuple[Path, Path] | None:
    """Return the files of train and test in ``folder`` or its ``devkit``, or None."""
    for place in folder, folder / "devkit":
        for train, test in _PAIRS:
            if (place / train).is_file() and (place / test).is_file():
                return place / train, place / test
    return None


def read(
    task: Task, folder: Path, train: Path, test: Path, class_names: tuple[str, ...]
) -> TaskSplits:
    """Read the two files; without ``class_names`` the classes are named after their ids."""
    splits = listed_splits(_read_ids, folder, train, None, test)
    require_classes(len(splits.class_names), task, train)
    known = {item.source for item in splits.train}
    if shared := next((item.source for item in splits.test if item.source in known), None):
        raise UsageError(f"{test}: {shared} is in {train.name} too; give each its own images")
    notes = (f"{train.name} and {test.name} are a copy, not the authors' own files",)
    names, source = class_names or splits.class_names, f"CSV copy in {folder}"
    return replace(splits, class_names=names, source=source, notes=notes)


def _read_ids(file: Path, folder: Path) -> ClassIds:
    """Return the class id of each image as the file states it."""
    rows = _read_rows(file)
    first = next(iter(rows.values()))
    path_column = _columns(file, first, _FILE_COLUMNS)[0]
    class_columns = _columns(file, first, _CLASS_COLUMNS)
    numbered = [name for name in class_columns if _GAP.sub("", first[name]).isdecimal()]
    class_column = (numbered or class_columns)[0]
    images = _images(folder, file, first[path_column])
    entries = (
        (where, listed_path(images, row[path_column], where), _GAP.sub("", row[class_column]))
        for where, row in rows.items()
    )
    return checked_ids(file, entries, f"a whole number as {class_column}")


def _read_rows(file: Path) -> dict[str, dict[str, str]]:
    """Return, for each line below the header, its place (for errors) and its values.

    Values are named by the header, in lower case.
    """
    reader = csv.reader(io.StringIO(read_text(file)), skipinitialspace=True)
    with named_errors(file):
        lines = [(f"{file}:{reader.line_num}", fields) for fields in reader if any(fields)]
    if len(lines) < 2:
        raise UsageError(f"{file}: no lines below the header; get it again")
    header = [name.strip().lower() for name in lines[0][1]]
    for where, fields in lines[1:]:
        if len(fields) != len(header):
            raise UsageError(
                f"{where}: {len(fields)} fields, but the header has {len(header)}; correct the line"
            )
    return {at: dict(zip(header, map(str.strip, row), strict=True)) for at, row in lines[1:]}


def _columns(file: Path, row: dict[str, str], wanted: Sequence[str]) -> list[str]:
    if found := [name for name in wanted if name in row]:
        return found
    header = ", ".join(row)[:200]
    raise UsageError(f"{file}: the header is {header!r}; expected a column {' or '.join(wanted)}")


def _images(folder: Path, file: Path, first: str) -> Path:
    """Return the folder that the paths are relative to: the first that has the first image."""
    split = "train" if "train" in file.name else "test"
    # Folders of one split come first: file names are the same in train and test.
    own = f"cars_{split}", f"cars_{split}/cars_{split}", split
    likely = *own, ".", file.parent, "images", "cars"
    found = (folder / name for name in likely if os.path.isfile(folder / name / first))
    return next(found, folder)

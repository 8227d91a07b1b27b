"""The three forms of Stanford Cars; what all originals share is in ``test_original.py``."""

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from miniature import fgvc
from miniature.fgvc import Written
from pcvpt.data.layouts.base import Reading
from pcvpt.data.layouts.original import LAYOUT
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError


def _read(folder: Path) -> Reading:
    task = replace(TASKS["cars"], num_classes=3)
    found = LAYOUT.find(task, folder)
    assert found is not None
    return LAYOUT.read(task, found)


def _check(reading: Reading, written: Written) -> None:
    assert dict(reading.train) == written.train
    assert (reading.val and dict(reading.val)) == written.val
    assert dict(reading.test) == written.test
    assert reading.class_names == written.class_names


def _fails(folder: Path, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        _read(folder)


def test_the_devkit_may_lie_beside_the_images(tmp_path: Path) -> None:
    written = fgvc.write_cars_devkit(tmp_path, devkit="")
    _check(_read(tmp_path), written)


def test_torchvision_s_folder_is_found(tmp_path: Path) -> None:
    written = fgvc.write_cars_devkit(tmp_path / "stanford_cars")
    _check(_read(tmp_path), written)


def test_a_devkit_without_labels_of_test_names_the_file_that_has_them(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path, labelled=False)
    _fails(tmp_path, "cars_test_annos.mat: has no labels of the test images; put cars_test")


def test_classes_have_numbers_where_the_devkit_lacks_their_names(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path)
    (tmp_path / "devkit" / "cars_meta.mat").unlink()
    assert _read(tmp_path).class_names == ("1", "2", "3")


def test_class_names_of_another_number_are_refused(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path, classes=2)
    _fails(tmp_path, "cars_meta.mat: 2 class names, but cars (Stanford Cars) has 3 classes")


def test_the_form_whose_images_are_there_is_taken(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path)
    (tmp_path / "cars_train").rename(tmp_path / "gone")
    written = fgvc.write_cars_annos(tmp_path)
    _check(_read(tmp_path), written)


def test_cars_annos_without_its_images_asks_for_them(tmp_path: Path) -> None:
    fgvc.write_cars_annos(tmp_path)
    (tmp_path / "car_ims").rename(tmp_path / "gone")
    _fails(tmp_path, "car_ims: no such folder")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"columns": ("fname", "class")}, ("1", "2", "3")),
        ({"columns": ("Filename", "TARGET"), "first_id": 0}, ("0", "1", "2")),
        ({"files": ("cars_train_annos.csv", "cars_test_annos.csv")}, ("1", "2", "3")),
        ({"images": "{split}/{split}/{number:05}.jpg"}, ("1", "2", "3")),
        ({"images": "images/{split}{number}.jpg"}, ("1", "2", "3")),
        ({"images": "{split}{number}.jpg"}, ("1", "2", "3")),
        (
            {
                "images": "car_ims/{split}{number}.jpg",
                "prefix": "car_ims/",
                "columns": ("relative_im_path", "label"),
            },
            ("1", "2", "3"),
        ),
    ],
)
def test_copies_in_csv_are_read(
    options: dict[str, Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    written = fgvc.write_cars_csv(tmp_path, **options)
    reading = _read(tmp_path)
    _check(reading, written)
    assert reading.class_names == names
    assert reading.notes


def test_classes_in_csv_have_the_names_in_the_devkit(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path)
    fgvc.write_cars_csv(tmp_path, first_id=0)
    for file in "devkit/cars_train_annos.mat", "devkit/cars_test_annos.mat":
        (tmp_path / file).unlink()
    assert _read(tmp_path).class_names == fgvc.CARS[:3]


def test_of_two_class_columns_that_with_numbers_is_taken(tmp_path: Path) -> None:
    written = fgvc.write_cars_csv(tmp_path)
    for file in "train.csv", "test.csv":
        rows = list(csv.reader((tmp_path / file).open()))
        extra = ["class_id"] + ['AM "General", Hummer'] * (len(rows) - 1)
        with (tmp_path / file).open("w") as stream:
            csv.writer(stream).writerows([*r, e] for r, e in zip(rows, extra, strict=True))
    _check(_read(tmp_path), written)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train", ",image,", ",picture,", "train.csv: the header is ', picture, x1, class'"),
        ("test", ",Class", ",kind", "test.csv: the header is ', image, x1, kind'; expected"),
        ("train", "00003.jpg,39,3", "00003.jpg,39", "train.csv:4: 3 fields, but the header has 4"),
        ("train", "00003.jpg,39,3", "00003.jpg,39,3.5", "train.csv:4: class '3.5' is not a whole"),
        ("train", "00003.jpg,39,3", "00003.jpg,39,-3", "train.csv:4: class '-3' is not a whole"),
        ("train", "00003.jpg", "00002.jpg", "train.csv:4: '00002.jpg' is listed twice"),
        ("train", "00003.jpg", "../3.jpg", "train.csv:4: '../3.jpg' leads out of"),
        ("test", "00003.jpg,39,3", "00003.jpg,39,9", "test.csv: class 9 of"),
    ],
)
def test_a_bad_line_of_csv_is_named(
    file: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    fgvc.write_cars_csv(tmp_path)
    path = tmp_path / f"{file}.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    _fails(tmp_path, message)


def test_a_csv_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    fgvc.write_cars_csv(tmp_path, classes=2)
    _fails(tmp_path, "train.csv: images of 2 classes, but cars (Stanford Cars) has 3")


def test_an_image_in_both_csv_files_is_refused(tmp_path: Path) -> None:
    fgvc.write_cars_csv(tmp_path, images="images/{number:05}.jpg")
    _fails(tmp_path, "test.csv: ")
    with pytest.raises(UsageError, match=r"00001\.jpg is in train\.csv too"):
        _read(tmp_path)

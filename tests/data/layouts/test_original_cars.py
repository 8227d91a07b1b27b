"""The three forms of Stanford Cars; what all originals share is in ``test_original.py``."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from miniature import fgvc
from miniature.reading import check, fails, read, replace_once
from pcvpt.data.layouts.original import LAYOUT
from pcvpt.data.tasks.table import TASKS

CARS = replace(TASKS["cars"], num_classes=3)


@pytest.mark.parametrize(("folder", "devkit"), [("", ""), ("stanford_cars", "devkit")])
def test_the_devkit_is_found_where_copies_have_it(folder: str, devkit: str, tmp_path: Path) -> None:
    written = fgvc.write_cars_devkit(tmp_path / folder, devkit=devkit)
    check(read(LAYOUT, CARS, tmp_path), written)


def test_a_devkit_without_labels_of_test_names_the_file_that_has_them(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path, labelled=False)
    fails(LAYOUT, CARS, tmp_path, "cars_test_annos.mat", "cars_test_annos_withlabels.mat")


def test_classes_have_numbers_where_the_devkit_lacks_their_names(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path)
    (tmp_path / "devkit" / "cars_meta.mat").unlink()
    assert read(LAYOUT, CARS, tmp_path).class_names == ("1", "2", "3")


def test_class_names_of_another_number_are_refused(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path, classes=2)
    fails(LAYOUT, CARS, tmp_path, "cars_meta.mat: 2 class names", "cars", "3 classes")


def test_the_form_whose_images_exist_is_taken(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path)
    (tmp_path / "cars_train").rename(tmp_path / "gone")
    written = fgvc.write_cars_annos(tmp_path)
    check(read(LAYOUT, CARS, tmp_path), written)
    (tmp_path / "car_ims").rename(tmp_path / "gone too")
    fails(LAYOUT, CARS, tmp_path, "cars_train: no such folder")


def test_cars_annos_without_its_images_asks_for_them(tmp_path: Path) -> None:
    fgvc.write_cars_annos(tmp_path)
    (tmp_path / "car_ims").rename(tmp_path / "gone")
    fails(LAYOUT, CARS, tmp_path, "car_ims: no such folder")


@pytest.mark.parametrize(
    "options",
    [
        {"columns": ("fname", "class")},
        {"columns": ("Filename", "TARGET"), "first_id": 0},
        {"files": ("cars_train_annos.csv", "cars_test_annos.csv")},
        {"images": "{split}/{split}/{number:05}.jpg"},
        {"images": "images/{split}{number}.jpg"},
        {"images": "{split}{number}.jpg"},
        {
            "images": "car_ims/{split}{number}.jpg",
            "prefix": "car_ims/",
            "columns": ("relative_im_path", "label"),
        },
    ],
)
def test_copies_in_csv_are_read(options: dict[str, Any], tmp_path: Path) -> None:
    written = fgvc.write_cars_csv(tmp_path, **options)
    splits = read(LAYOUT, CARS, tmp_path)
    check(splits, written)
    assert splits.notes


def test_classes_in_csv_have_the_names_in_the_devkit(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path)
    fgvc.write_cars_csv(tmp_path, first_id=0)
    for file in "devkit/cars_train_annos.mat", "devkit/cars_test_annos.mat":
        (tmp_path / file).unlink()
    assert read(LAYOUT, CARS, tmp_path).class_names == fgvc.CARS[:3]


def test_of_two_class_columns_the_one_with_numbers_is_taken(tmp_path: Path) -> None:
    written = fgvc.write_cars_csv(tmp_path)
    for file in "train.csv", "test.csv":
        rows = list(csv.reader((tmp_path / file).open()))
        extra = ["class_id"] + ['AM "General", Hummer'] * (len(rows) - 1)
        with (tmp_path / file).open("w") as stream:
            csv.writer(stream).writerows([*r, e] for r, e in zip(rows, extra, strict=True))
    check(read(LAYOUT, CARS, tmp_path), written)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("train.csv", ",image,", ",picture,", ["train.csv: the header", "picture"]),
        ("test.csv", ",Class", ",kind", ["test.csv: the header", "kind"]),
        ("train.csv", "00003.jpg,39,3", "00003.jpg,39", ["train.csv:4: 3 fields", "4"]),
        ("train.csv", "00003.jpg,39,3", "00003.jpg,39,3.5", ["train.csv:4: class '3.5'"]),
        ("train.csv", "00003.jpg,39,3", "00003.jpg,39,-3", ["train.csv:4: class '-3'"]),
        ("train.csv", "00003.jpg", "00002.jpg", ["train.csv:4: '00002.jpg' is listed twice"]),
        ("train.csv", "00003.jpg", "../3.jpg", ["train.csv:4: '../3.jpg' leads out of"]),
        ("test.csv", "00003.jpg,39,3", "00003.jpg,39,9", ["test.csv: class 9 of"]),
    ],
)
def test_a_bad_line_of_csv_is_named(
    file: str, old: str, new: str, words: list[str], tmp_path: Path
) -> None:
    fgvc.write_cars_csv(tmp_path)
    replace_once(tmp_path / file, old, new)
    fails(LAYOUT, CARS, tmp_path, *words)


def test_a_csv_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    fgvc.write_cars_csv(tmp_path, classes=2)
    fails(LAYOUT, CARS, tmp_path, "train.csv: 2 classes", "cars", "3 classes")


def test_an_image_in_both_csv_files_is_refused(tmp_path: Path) -> None:
    fgvc.write_cars_csv(tmp_path, images="images/{number:05}.jpg")
    fails(LAYOUT, CARS, tmp_path, "test.csv: ", "00001.jpg is in train.csv too")

import csv
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from miniature import fgvc
from miniature.fgvc import SMALL, Written
from miniature.reading import check, fails, labels, read
from pcvpt.data.layouts import find
from pcvpt.data.layouts.original import LAYOUT
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError

CARS = SMALL["cars"]
WRITERS: dict[str, Callable[..., Written]] = {
    "cub": fgvc.write_cub,
    "nabirds": fgvc.write_nabirds,
    "flowers": fgvc.write_flowers,
    "dogs": fgvc.write_dogs,
    "dogs with lists in a subfolder": partial(fgvc.write_dogs, lists="lists"),
    "cars devkit": fgvc.write_cars_devkit,
    "cars devkit in the folder of the images": partial(fgvc.write_cars_devkit, devkit=""),
    "cars annos": fgvc.write_cars_annos,
    "cars csv": fgvc.write_cars_csv,
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("classes", [1, 3])
def test_images_labels_and_names_are_those_that_were_written(
    form: str, classes: int, tmp_path: Path
) -> None:
    task = replace(SMALL[form.split()[0]], num_classes=classes)
    folder = tmp_path / task.folders[0]
    written = WRITERS[form](folder, classes=classes, per_class=2)
    assert LAYOUT.find(task, tmp_path) == folder
    splits = read(LAYOUT, task, tmp_path)
    check(splits, written)
    assert str(folder) in splits.source
    image = list(written.train)[-1]
    image.unlink()
    fails(LAYOUT, task, tmp_path, "listed images do not exist", str(image))


def test_a_task_has_only_its_own_files(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path / "cub")
    fgvc.write_nabirds(tmp_path / "nabirds")
    fgvc.write_flowers(tmp_path)
    assert LAYOUT.find(TASKS["cub"], tmp_path / "nabirds") is None
    assert LAYOUT.find(TASKS["nabirds"], tmp_path / "cub") is None
    assert LAYOUT.find(TASKS["flowers102"], tmp_path) is None
    assert [name for name, task in TASKS.items() if LAYOUT.required_files(task)] == list(SMALL)


def test_where_it_is_missing_the_error_names_the_files(tmp_path: Path) -> None:
    (tmp_path / "cars").mkdir()
    (tmp_path / "cars" / "readme.txt").touch()
    words = r"(?s)original: .*cars_test_annos_withlabels\.mat.*readme"
    with pytest.raises(UsageError, match=words):
        find(TASKS["cars"], tmp_path)
    with pytest.raises(UsageError, match=r"layout is 'tfds'.*cars.*original"):
        find(TASKS["cars"], tmp_path, "tfds")


def test_a_class_that_train_lacks_shifts_no_label(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path)
    ids = [line.split()[1] for line in (tmp_path / "image_class_labels.txt").open()]
    flags = "".join(f"{n} {int(i == '3')}\n" for n, i in enumerate(ids, start=1))
    (tmp_path / "train_test_split.txt").write_text(flags)
    splits = read(LAYOUT, SMALL["cub"], tmp_path)
    assert set(labels(splits.train)) == {2}
    assert set(labels(splits.test)) == {0, 1}


def test_paths_of_birds_may_contain_blanks(tmp_path: Path) -> None:
    first = next(iter(fgvc.write_cub(tmp_path).test))
    first.rename(first.with_name("my bird.jpg"))
    text = (tmp_path / "images.txt").read_text().replace("/1.jpg\n", "/my bird.jpg\r\n")
    (tmp_path / "images.txt").write_bytes(text.encode("utf-8-sig"))
    test = read(LAYOUT, SMALL["cub"], tmp_path).test
    assert test[0].source == first.with_name("my bird.jpg")


def test_images_unpacked_into_a_folder_of_the_same_name_are_found(tmp_path: Path) -> None:
    fgvc.write_dogs(tmp_path)
    (tmp_path / "Images").rename(tmp_path / "inner")
    (tmp_path / "images").mkdir()
    (tmp_path / "inner").rename(tmp_path / "images" / "Images")
    train = read(LAYOUT, SMALL["dogs"], tmp_path).train
    assert all(tmp_path / "images" / "Images" in Path(str(i.source)).parents for i in train)


def test_classes_of_cars_have_the_names_in_the_devkit_or_numbers(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path)
    fgvc.write_cars_csv(tmp_path, first_id=0)
    names = (tmp_path / "devkit" / "cars_meta.mat").rename(tmp_path / "names")
    assert read(LAYOUT, CARS, tmp_path).class_names == ("1", "2", "3")
    names.rename(tmp_path / "devkit" / "cars_meta.mat")
    for file in "devkit/cars_train_annos.mat", "devkit/cars_test_annos.mat":
        (tmp_path / file).unlink()
    assert read(LAYOUT, CARS, tmp_path).class_names == fgvc.CARS[:3]


def test_of_two_forms_of_cars_the_one_whose_images_exist_is_taken(tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path)
    (tmp_path / "cars_train").rename(tmp_path / "gone")
    written = fgvc.write_cars_annos(tmp_path)
    check(read(LAYOUT, CARS, tmp_path), written)
    (tmp_path / "car_ims").rename(tmp_path / "gone too")
    fails(LAYOUT, CARS, tmp_path, "cars_train: no such folder")


@pytest.mark.parametrize(
    "options",
    [
        {"columns": ("Filename", "TARGET"), "first_id": 0},
        {"files": ("cars_train_annos.csv", "cars_test_annos.csv"), "columns": ("fname", "class")},
        {"images": "cars_{split}/cars_{split}/{number:05}.jpg"},
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


def test_of_two_class_columns_the_one_with_numbers_is_taken(tmp_path: Path) -> None:
    written = fgvc.write_cars_csv(tmp_path)
    for file in "train.csv", "test.csv":
        rows = list(csv.reader((tmp_path / file).open()))
        extra = ["class_id"] + ['AM "General", Hummer'] * (len(rows) - 1)
        with (tmp_path / file).open("w") as stream:
            csv.writer(stream).writerows([*r, e] for r, e in zip(rows, extra, strict=True))
    check(read(LAYOUT, CARS, tmp_path), written)

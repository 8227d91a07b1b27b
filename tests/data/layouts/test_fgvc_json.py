import json
from dataclasses import replace
from pathlib import Path

import pytest

from miniature import fgvc
from miniature.images import write_noise
from miniature.reading import check, fails, labels, read, replace_once
from pcvpt.data.layouts.fgvc_json import LAYOUT
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tasks.task import Task

FGVC = ["cub", "nabirds", "flowers", "dogs", "cars"]


def _small(name: str, classes: int = 3) -> Task:
    return replace(TASKS[name], num_classes=classes)


@pytest.mark.parametrize("name", FGVC)
def test_images_labels_and_names_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    folder = tmp_path / TASKS[name].folders[0]
    written = fgvc.write_json(folder, name)
    splits = read(LAYOUT, _small(name), tmp_path)
    check(splits, written)
    assert str(folder) in splits.source
    (folder / "val.json").unlink()
    assert read(LAYOUT, _small(name), tmp_path).val is None


def test_sparse_ids_become_labels_from_0(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "nabirds")
    assert set(json.loads((tmp_path / "train.json").read_text()).values()) == {295, 298, 301}
    assert labels(read(LAYOUT, _small("nabirds"), tmp_path).train) == [0, 1, 2] * 4


def test_a_class_that_val_lacks_does_not_shift_its_labels(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    val = json.loads((tmp_path / "val.json").read_text())
    val.pop(next(iter(val)))
    (tmp_path / "val.json").write_text(json.dumps(val))
    assert labels(read(LAYOUT, _small("cub"), tmp_path).val) == [1, 2]


def test_the_case_of_the_images_folder_does_not_matter(tmp_path: Path) -> None:
    written = fgvc.write_json(tmp_path, "dogs")
    (tmp_path / "Images").rename(tmp_path / "IMAGES")
    train = read(LAYOUT, _small("dogs"), tmp_path).train
    assert labels(train) == list(written.train.values())
    assert all(tmp_path / "IMAGES" in Path(str(item.source)).parents for item in train)


def test_a_missing_images_folder_is_named(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    fails(LAYOUT, _small("cub"), tmp_path, "images: no such folder")


@pytest.mark.parametrize("classes", [2, 4])
def test_another_number_of_classes_than_the_task_has_is_named(classes: int, tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub", classes=3)
    fails(LAYOUT, _small("cub", classes), tmp_path, "train.json: 3 classes", "cub", f"{classes}")


def test_a_class_that_train_lacks_is_named(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "flowers")
    write_noise(tmp_path / "jpg" / "new.jpg", 0)
    replace_once(tmp_path / "test.json", "{", '{"jpg/new.jpg": 9, ')
    fails(LAYOUT, _small("flowers"), tmp_path, "test.json: class 9", "new.jpg")


@pytest.mark.parametrize("file", ["train.json", "test.json"])
def test_both_of_train_and_test_are_needed(file: str, tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    assert LAYOUT.find(TASKS["cub"], tmp_path) == tmp_path
    (tmp_path / file).unlink()
    assert LAYOUT.find(TASKS["cub"], tmp_path) is None


def test_only_fgvc_tasks_have_it(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    assert [name for name, task in TASKS.items() if LAYOUT.required_files(task)] == FGVC
    assert LAYOUT.find(TASKS["cifar100"], tmp_path) is None

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from miniature import fgvc
from pcvpt.data.layouts.fgvc_json import LAYOUT
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

FGVC = ["cub", "nabirds", "flowers", "dogs", "cars"]


def _small(name: str, classes: int = 3) -> Task:
    return replace(TASKS[name], num_classes=classes)


def _edit(file: Path, **others: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | others))


@pytest.mark.parametrize("name", FGVC)
def test_images_labels_and_names_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    written = fgvc.write_json(tmp_path / TASKS[name].folders[0], name)
    folder = LAYOUT.find(_small(name), tmp_path)
    assert folder == tmp_path / TASKS[name].folders[0]
    reading = LAYOUT.read(_small(name), folder)
    assert dict(reading.train) == written.train
    assert reading.val is not None
    assert dict(reading.val) == written.val
    assert dict(reading.test) == written.test
    assert reading.class_names == written.class_names
    assert str(folder) in reading.source


def test_sparse_ids_become_labels_from_nought(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "nabirds")
    assert set(json.loads((tmp_path / "train.json").read_text()).values()) == {295, 298, 301}
    assert [item.label for item in LAYOUT.read(_small("nabirds"), tmp_path).train] == [0, 1, 2] * 4


def test_a_class_that_val_lacks_does_not_shift_its_labels(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    val = json.loads((tmp_path / "val.json").read_text())
    val.pop(next(iter(val)))
    (tmp_path / "val.json").write_text(json.dumps(val))
    reading = LAYOUT.read(_small("cub"), tmp_path)
    assert reading.val is not None
    assert [item.label for item in reading.val] == [1, 2]


def test_without_val_json_there_is_no_val(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cars", val=False)
    assert LAYOUT.read(_small("cars"), tmp_path).val is None


@pytest.mark.parametrize("name", ["images", "IMAGES"])
def test_the_case_of_the_images_folder_does_not_matter(name: str, tmp_path: Path) -> None:
    written = fgvc.write_json(tmp_path, "dogs")
    (tmp_path / "Images").rename(tmp_path / name)
    train = LAYOUT.read(_small("dogs"), tmp_path).train
    assert [item.label for item in train] == list(written.train.values())
    assert all(tmp_path / name in Path(str(item.source)).parents for item in train)


def test_a_missing_images_folder_is_named(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="images: no such folder"):
        LAYOUT.read(_small("cub"), tmp_path)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_number_of_classes_that_is_not_the_task_s_is_named(classes: int, tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub", classes=3)
    with pytest.raises(UsageError, match=rf"train\.json: images of 3 classes, but cub .*{classes}"):
        LAYOUT.read(_small("cub", classes), tmp_path)


def test_a_class_that_train_lacks_is_named(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "flowers")
    fgvc.write_noise(tmp_path / "jpg" / "new.jpg", 0)
    _edit(tmp_path / "test.json", **{"jpg/new.jpg": 9})
    with pytest.raises(UsageError, match=r"test\.json: class 9 of .*new\.jpg does not occur"):
        LAYOUT.read(_small("flowers"), tmp_path)


@pytest.mark.parametrize("file", ["train.json", "test.json"])
def test_both_of_train_and_test_are_needed(file: str, tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    assert LAYOUT.find(TASKS["cub"], tmp_path) == tmp_path
    (tmp_path / file).unlink()
    assert LAYOUT.find(TASKS["cub"], tmp_path) is None


def test_only_fgvc_tasks_have_it(tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    having = [name for name, task in TASKS.items() if LAYOUT.expected(task)]
    assert having == FGVC
    assert LAYOUT.find(TASKS["cifar100"], tmp_path) is None

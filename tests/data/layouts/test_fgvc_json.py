from dataclasses import replace
from pathlib import Path

import pytest

from miniature import fgvc
from miniature.fgvc import SMALL
from miniature.reading import check, fails, read
from pcvpt.data.layouts.fgvc_json import LAYOUT
from pcvpt.data.tasks.table import TASKS

CUB = SMALL["cub"]


@pytest.mark.parametrize("name", SMALL)
def test_images_labels_and_names_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    folder = tmp_path / TASKS[name].folders[0]
    written = fgvc.write_json(folder, name)
    splits = read(LAYOUT, SMALL[name], tmp_path)
    check(splits, written)
    assert str(folder) in splits.source
    (folder / "val.json").unlink()
    assert read(LAYOUT, SMALL[name], tmp_path).val is None


@pytest.mark.parametrize("classes", [2, 4])
def test_another_number_of_classes_than_the_task_has_is_named(classes: int, tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    task = replace(CUB, num_classes=classes)
    fails(LAYOUT, task, tmp_path, "train.json: 3 classes", "cub", f"{classes}")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    fails(LAYOUT, task, tmp_path, "images: no such folder")


@pytest.mark.parametrize("file", ["train.json", "test.json"])
def test_both_of_train_and_test_are_needed(file: str, tmp_path: Path) -> None:
    fgvc.write_json(tmp_path, "cub")
    assert LAYOUT.find(CUB, tmp_path) == tmp_path
    assert LAYOUT.find(TASKS["cifar100"], tmp_path) is None
    (tmp_path / file).unlink()
    assert LAYOUT.find(CUB, tmp_path) is None


def test_only_fgvc_tasks_have_it() -> None:
    assert [name for name, task in TASKS.items() if LAYOUT.required_files(task)] == list(SMALL)

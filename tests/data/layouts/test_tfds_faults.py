import json
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from miniature import vtab
from miniature.prepare import Prepared
from miniature.reading import fails, labels
from pcvpt.data.image_files import load
from pcvpt.data.layouts.tfds.layout import LAYOUT
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError

FORMATS = ("array_record", "tfrecord")
CIFAR = vtab.small(TASKS["cifar100"])


def _shard(folder: Path, number: int) -> Path:
    (shard,) = folder.glob(f"cifar100-train*-0000{number}-of-00002")
    return shard


def _edit_info(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "dataset_info.json"
    info = json.loads(file.read_text())
    edit(info)
    file.write_text(json.dumps(info))


def _edit_train(folder: Path, **change: object) -> None:
    def edit(info: dict[str, Any]) -> None:
        (split,) = (split for split in info["splits"] if split["name"] == "train")
        split.update(change)

    _edit_info(folder, edit)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("kept", [None, 0, 0.3, 0.999])
def test_a_missing_or_truncated_shard_is_named(
    prepared: Prepared, tmp_path: Path, file_format: str, kept: float | None
) -> None:
    shard = _shard(prepared.copy(CIFAR, tmp_path, file_format), 0)
    if kept is None:
        shard.unlink()
    else:
        data = shard.read_bytes()
        shard.write_bytes(data[: int(kept * len(data))])
    fails(LAYOUT, CIFAR, tmp_path, f"{shard}: ")


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("lengths", [["9", "11"], ["11", "9"]])
def test_a_shard_with_another_number_of_examples_is_named(
    prepared: Prepared, tmp_path: Path, file_format: str, lengths: list[str]
) -> None:
    folder = prepared.copy(CIFAR, tmp_path, file_format)
    _edit_train(folder, shardLengths=lengths)
    fails(LAYOUT, CIFAR, tmp_path, "cifar100-train", "examples", "dataset_info.json")


def test_a_damaged_example_is_named(prepared: Prepared, tmp_path: Path) -> None:
    shard = _shard(prepared.copy(CIFAR, tmp_path), 0)
    data = bytearray(shard.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    data[12 : 12 + size] = b"\xff" * size
    shard.write_bytes(data)
    fails(LAYOUT, CIFAR, tmp_path, "00000-of-00002: example 0 is damaged")


@pytest.mark.parametrize(
    ("name", "message"),
    [("cifar100", r"train\[0\] in "), ("dsprites_loc", "example 0 is damaged")],
)
def test_a_damaged_image_is_named_when_it_is_loaded(
    prepared: Prepared, tmp_path: Path, name: str, message: str
) -> None:
    task = vtab.small(TASKS[name])
    made = Path(prepared.builder(task).data_dir)
    folder = Path(shutil.copytree(made, tmp_path / name / made.name))
    (first,) = folder.glob("*-train*-00000-of-00002")
    first.write_bytes(first.read_bytes().replace(b"\x89PNG", b"\x00PNG"))
    item = LAYOUT.read(task, folder).train[0]
    with pytest.raises(UsageError, match=message):
        load(item.source)


def test_another_data_set_in_the_folder_is_named(prepared: Prepared) -> None:
    folder = Path(prepared.builder(TASKS["dtd"]).data_dir)
    with pytest.raises(UsageError, match=r"dtd:3\.0\.1.*cifar100"):
        LAYOUT.read(TASKS["cifar100"], folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "other"}, ["dataset_info.json", "'train'", "other"]),
        ({"shardLengths": ["x"]}, ["dataset_info.json: cannot be read"]),
        ({"shardLengths": ["-1", "21"]}, ["dataset_info.json: cannot be read"]),
        ({"filepathTemplate": "{}"}, ["dataset_info.json: cannot be read"]),
        ({"filepathTemplate": "{ELSE}"}, ["dataset_info.json: cannot be read"]),
        ({"shardLengths": []}, ["'train' has 0 examples"]),
    ],
)
def test_a_wrong_description_of_a_split_is_named(
    prepared: Prepared, tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    _edit_train(prepared.copy(CIFAR, tmp_path), **change)
    fails(LAYOUT, CIFAR, tmp_path, *words)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "cifar100", "splits": 3}'])
def test_a_damaged_description_is_named(prepared: Prepared, tmp_path: Path, text: str) -> None:
    (prepared.copy(CIFAR, tmp_path) / "dataset_info.json").write_text(text)
    fails(LAYOUT, CIFAR, tmp_path, "dataset_info.json: cannot be read")


def test_a_format_that_cannot_be_read_is_named(prepared: Prepared, tmp_path: Path) -> None:
    folder = prepared.copy(CIFAR, tmp_path)
    _edit_info(folder, lambda info: info.update(fileFormat="parquet"))
    fails(LAYOUT, CIFAR, tmp_path, "dataset_info.json", "'parquet'", "array_record")


def test_an_old_description_without_format_and_template_is_read(
    prepared: Prepared, tmp_path: Path
) -> None:
    folder = prepared.copy(CIFAR, tmp_path)
    before = labels(LAYOUT.read(CIFAR, folder).train)

    def edit(info: dict[str, Any]) -> None:
        del info["fileFormat"]
        for split in info["splits"]:
            del split["filepathTemplate"]

    _edit_info(folder, edit)
    assert labels(LAYOUT.read(CIFAR, folder).train) == before


def test_labels_and_names_of_another_number_of_classes_are_refused(
    prepared: Prepared, tmp_path: Path
) -> None:
    folder = prepared.copy(CIFAR, tmp_path)
    with pytest.raises(UsageError, match=r"label \d+ is not in 0\.\.1"):
        LAYOUT.read(replace(CIFAR, num_classes=2), folder)
    (folder / "label.labels.txt").write_text("one\ntwo\n")
    fails(LAYOUT, CIFAR, tmp_path, "label.labels.txt: 2 classes", "cifar100", "100")


def test_without_its_library_array_record_is_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared.copy(CIFAR, tmp_path, "array_record")
    monkeypatch.setitem(sys.modules, "array_record", None)
    fails(LAYOUT, CIFAR, tmp_path, "pip install 'pcvpt[tfds]'")

import json
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from miniature import vtab
from miniature.prepare import Prepared
from pcvpt.data.image_files import load
from pcvpt.data.layouts.tfds import layout as tfds
from pcvpt.data.layouts.tfds import shards
from pcvpt.data.splits import Item
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError

FORMATS = ("array_record", "tfrecord")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("tfds"))


def _labels(items: tuple[Item, ...]) -> list[int]:
    return [item.label for item in items]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_missing_shard_is_named(prepared: Prepared, tmp_path: Path, file_format: str) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = prepared.copy(task, tmp_path, file_format)
    (last,) = folder.glob("cifar100-train*-00001-of-00002")
    last.unlink()
    with pytest.raises(UsageError, match=rf"{re.escape(str(last))}: missing"):
        tfds.read(task, folder)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("kept", [0, 0.3, 0.6, 0.999])
def test_a_truncated_shard_is_named(
    prepared: Prepared, tmp_path: Path, file_format: str, kept: float
) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = prepared.copy(task, tmp_path, file_format)
    (first,) = folder.glob("cifar100-train*-00000-of-00002")
    data = first.read_bytes()
    first.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UsageError, match=rf"{re.escape(str(first))}: "):
        tfds.read(task, folder)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("lengths", [["9", "11"], ["11", "9"]])
def test_a_shard_with_another_number_of_examples_is_named(
    prepared: Prepared, tmp_path: Path, file_format: str, lengths: list[str]
) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = prepared.copy(task, tmp_path, file_format)
    _edit_split(folder, "train", {"shardLengths": lengths})
    with pytest.raises(UsageError, match=r"cifar100-train.*examples, but dataset_info.json says"):
        tfds.read(task, folder)


def test_a_damaged_example_is_named(prepared: Prepared, tmp_path: Path) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = prepared.copy(task, tmp_path)
    (first,) = folder.glob("cifar100-train*-00000-of-00002")
    data = bytearray(first.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    data[12 : 12 + size] = b"\xff" * size
    first.write_bytes(data)
    with pytest.raises(UsageError, match=r"00000-of-00002: example 0 is damaged"):
        tfds.read(task, folder)


def test_an_image_that_is_none_is_named_when_it_is_loaded(
    prepared: Prepared, tmp_path: Path
) -> None:
    for name, message in ("cifar100", r"train\[0\] in "), ("dsprites_loc", "example 0 is damaged"):
        task = vtab.small(TASKS[name])
        made = Path(prepared.builder(task).data_dir)
        folder = Path(shutil.copytree(made, tmp_path / name / made.name))
        (first,) = folder.glob("*-train*-00000-of-00002")
        first.write_bytes(first.read_bytes().replace(b"\x89PNG", b"\x00PNG"))
        item = tfds.read(task, folder).train[0]
        with pytest.raises(UsageError, match=message):
            load(item.source)


def test_a_label_outside_the_classes_is_named(prepared: Prepared) -> None:
    task = replace(vtab.small(TASKS["cifar100"]), num_classes=2)
    with pytest.raises(UsageError, match=r"label \d+ is not in 0\.\.1"):
        tfds.read(task, Path(prepared.builder(task).data_dir))


def test_another_set_in_the_folder_is_named(prepared: Prepared) -> None:
    folder = Path(prepared.builder(TASKS["dtd"]).data_dir)
    with pytest.raises(UsageError, match=r"this is dtd:3\.0\.1, but cifar100 is made from"):
        tfds.read(TASKS["cifar100"], folder)


def _edit_split(folder: Path, name: str, change: dict[str, Any]) -> None:
    info = json.loads((folder / "dataset_info.json").read_text())
    (split,) = (split for split in info["splits"] if split["name"] == name)
    split.update(change)
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, r"dataset_info\.json: no split 'train', there are other"),
        ({"shardLengths": ["x"]}, r"dataset_info\.json: not what TFDS writes"),
        ({"shardLengths": ["-1", "21"]}, r"dataset_info\.json: not what TFDS writes"),
        ({"filepathTemplate": "{}"}, r"dataset_info\.json: not what TFDS writes"),
        ({"shardLengths": []}, r"split 'train' has 0 examples"),
        ({"filepathTemplate": "{ELSE}"}, r"dataset_info\.json: not what TFDS writes"),
    ],
)
def test_a_wrong_description_of_a_split_is_named(
    prepared: Prepared, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = prepared.copy(task, tmp_path)
    _edit_split(folder, "train", change)
    with pytest.raises(UsageError, match=message):
        tfds.read(task, folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "cifar100", "splits": 3}'])
def test_a_damaged_description_is_named(prepared: Prepared, tmp_path: Path, text: str) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = prepared.copy(task, tmp_path)
    (folder / "dataset_info.json").write_text(text)
    with pytest.raises(UsageError, match=r"dataset_info\.json: not what TFDS writes"):
        tfds.read(task, folder)


def test_an_unreadable_format_is_named(prepared: Prepared, tmp_path: Path) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = prepared.copy(task, tmp_path)
    file = folder / "dataset_info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fileFormat": "parquet"}))
    with pytest.raises(UsageError, match="the format is 'parquet'"):
        tfds.read(task, folder)


def test_an_old_description_without_format_and_template_is_read(
    prepared: Prepared, tmp_path: Path
) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = prepared.copy(task, tmp_path)
    file = folder / "dataset_info.json"
    info = json.loads(file.read_text())
    del info["fileFormat"]
    for split in info["splits"]:
        del split["filepathTemplate"]
    file.write_text(json.dumps(info))
    assert _labels(tfds.read(task, folder).train) == _labels(
        tfds.read(task, Path(prepared.builder(task).data_dir)).train
    )


def test_names_of_another_number_of_classes_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = prepared.copy(task, tmp_path)
    (folder / "label.labels.txt").write_text("one\ntwo\n")
    with pytest.raises(UsageError, match=r"label\.labels\.txt: 2 classes, but cifar100 has 100"):
        tfds.read(task, folder)


def test_without_its_library_array_record_is_refused(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = vtab.small(TASKS["cifar100"])
    folder = Path(prepared.builder(task, "array_record").data_dir)
    monkeypatch.setattr(shards, "array_record_module", None)
    with pytest.raises(UsageError, match=r"pip install 'pcvpt\[tfds\]'"):
        tfds.read(task, folder)

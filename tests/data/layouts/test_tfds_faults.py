"""What TFDS has prepared, spoilt in one way; the error must name the file."""

import json
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from miniature import vtab
from miniature.prepare import Prepared
from miniature.reading import Spoil, fails, filled, labels
from pcvpt.data.image_files import load
from pcvpt.data.layouts.tfds import LAYOUT
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError

CIFAR = vtab.small(TASKS["cifar100"])
INFO, SHARD = "dataset_info.json", "cifar100-train.*-00000-of-00002"


def _kept(part: float) -> Spoil:
    def spoil(file: Path) -> None:
        content = file.read_bytes()
        file.write_bytes(content[: int(part * len(content))])

    return spoil


def _info(**changed: object) -> Spoil:
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def _train(**changed: object) -> Spoil:
    def spoil(file: Path) -> None:
        splits = json.loads(file.read_text())["splits"]
        _info(splits=[each | changed if each["name"] == "train" else each for each in splits])(file)

    return spoil


FAULTS: list[tuple[str, Spoil, str]] = [
    (SHARD, Path.unlink, "missing"),
    *((SHARD, _kept(part), "00000-of-00002: ") for part in (0, 0.3, 0.999)),
    (INFO, _train(shardLengths=["9", "11"]), "cifar100-train .. examples .. dataset_info.json"),
    (INFO, _train(shardLengths=["11", "9"]), "cifar100-train .. examples .. dataset_info.json"),
    (INFO, _train(shardLengths=[]), "'train' has 0 examples"),
    (INFO, _train(name="other"), "dataset_info.json: .. 'train' .. other"),
    (INFO, _train(shardLengths=["x"]), "dataset_info.json: cannot be read"),
    (INFO, _train(shardLengths=["-1", "21"]), "dataset_info.json: cannot be read"),
    (INFO, _train(filepathTemplate="{}"), "dataset_info.json: cannot be read"),
    (INFO, _train(filepathTemplate="{ELSE}"), "dataset_info.json: cannot be read"),
    (INFO, _info(splits=3), "dataset_info.json: cannot be read"),
    *((INFO, filled(text), "dataset_info.json: cannot be read") for text in (b"", b"[]", b"{}")),
    (INFO, _info(fileFormat="parquet"), "dataset_info.json: .. 'parquet' .. array_record"),
    (INFO, _info(name="dtd", version="3.0.1"), "dataset_info.json: .. dtd:3.0.1 .. cifar100"),
    ("label.labels.txt", filled(b"one\ntwo\n"), "label.labels.txt: 2 classes .. cifar100 .. 100"),
]


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize(("file", "spoil", "words"), FAULTS)
def test_a_fault_is_named_with_its_file(
    file: str, spoil: Spoil, words: str, file_format: str, prepared: Prepared, tmp_path: Path
) -> None:
    (path,) = prepared.copy(CIFAR, tmp_path, file_format).glob(file)
    spoil(path)
    fails(LAYOUT, CIFAR, tmp_path, *words.split(" .. "))


def test_a_damaged_example_is_named(prepared: Prepared, tmp_path: Path) -> None:
    (shard,) = prepared.copy(CIFAR, tmp_path).glob(SHARD)
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


def test_an_old_description_without_format_and_template_is_read(
    prepared: Prepared, tmp_path: Path
) -> None:
    folder = prepared.copy(CIFAR, tmp_path)
    before = labels(LAYOUT.read(CIFAR, folder).train)
    _info(fileFormat=None)(folder / INFO)
    _train(filepathTemplate=None)(folder / INFO)
    assert labels(LAYOUT.read(CIFAR, folder).train) == before


def test_a_label_that_the_task_does_not_have_is_named(prepared: Prepared, tmp_path: Path) -> None:
    (prepared.copy(CIFAR, tmp_path) / "label.labels.txt").unlink()
    fails(LAYOUT, replace(CIFAR, num_classes=2), tmp_path, "train[", "has the label ")


def test_without_its_library_array_record_is_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared.copy(CIFAR, tmp_path, "array_record")
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    fails(LAYOUT, CIFAR, tmp_path, "pip install 'pcvpt[tfds]'")

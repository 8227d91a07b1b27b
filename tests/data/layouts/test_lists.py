import json
import re
from pathlib import Path

import pytest

from miniature.lists import LABELS, row, write
from pcvpt.data.layouts import LAYOUTS, Reading
from pcvpt.data.layouts.lists import LAYOUT
from pcvpt.data.splits import Item
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError

PETS, CARS = row("pets"), row("cars")


def _labels(items: tuple[Item, ...] | None) -> tuple[int, ...]:
    return tuple(item.label for item in items or ())


def _names(items: tuple[Item, ...]) -> list[str]:
    return ["/".join(Path(str(item.source)).parts[-2:]) for item in items]


def _append(file: Path, line: str) -> None:
    file.write_text(file.read_text() + line)


def _write_manifest(folder: Path, **changed: object) -> None:
    content: dict[str, object] = {
        "task": "pets",
        "source": "TFDS oxford_iiit_pet:3.2.0",
        "notes": ["three images are encoded anew"],
        "pcvpt": "0.1.0",
        "class_names": ["Abyssinian", "beagle", "Birman"],
        "splits": {},
    }
    (folder / "splits.json").write_text(json.dumps(content | changed))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_found_in_its_folder_and_read(name: str, tmp_path: Path) -> None:
    task = row(name)
    folder = write(task, tmp_path / name)
    assert LAYOUT in LAYOUTS
    assert LAYOUT.find(task, tmp_path) == LAYOUT.find(task, folder) == folder
    reading = LAYOUT.read(task, folder)
    assert _labels(reading.train) == LABELS["train"]
    assert _labels(reading.val) == LABELS["val"]
    assert _labels(reading.test) == LABELS["test"]
    assert reading.test[2].source == folder / "images/test/000002.jpg"
    assert LAYOUT.expected(task).startswith("train")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("cifar100", "vtab-1k/cifar"), ("pets", "oxford_iiit_pet"), ("kitti_dist", "vtab-1k/kitti")],
)
def test_folders_are_found_by_the_names_in_circulation(
    name: str, folder: str, tmp_path: Path
) -> None:
    write(row(name), tmp_path / folder)
    assert LAYOUT.find(row(name), tmp_path) == tmp_path / folder


@pytest.mark.parametrize("missing", ["train800.txt", "test.txt"])
def test_without_lists_of_train_and_test_nothing_is_found(missing: str, tmp_path: Path) -> None:
    (write(PETS, tmp_path / "pets") / missing).unlink()
    assert LAYOUT.find(PETS, tmp_path) is None
    assert LAYOUT.find(PETS, tmp_path / "none") is None


def test_copies_without_a_record_are_said_to_be_of_unknown_origin(tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    reading = LAYOUT.read(PETS, folder)
    assert reading.source == f"list files in {folder}"
    assert "origin not recorded" in reading.notes[0]
    assert reading.class_names == ("0", "1", "2")


def test_splits_json_gives_source_notes_and_class_names(tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    _write_manifest(folder)
    reading = LAYOUT.read(PETS, folder)
    assert reading.source.endswith("converted from: TFDS oxford_iiit_pet:3.2.0")
    assert reading.notes == ("three images are encoded anew",)
    assert reading.class_names == ("Abyssinian", "beagle", "Birman")


def test_images_of_another_task_are_refused(tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    _write_manifest(folder, task="dtd")
    with pytest.raises(UsageError, match=r"splits\.json: these are the images of dtd, not of pets"):
        LAYOUT.read(PETS, folder)


def test_another_number_of_class_names_is_refused(tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    _write_manifest(folder, class_names=["a", "b"])
    with pytest.raises(UsageError, match=r"splits\.json: 2 class names, but pets has 3 classes"):
        LAYOUT.read(PETS, folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "\0", "[" * 100_000, '{"task": 1}', b"\xff\xfe\x01"],
)
def test_a_splits_json_that_is_none_is_named(text: str | bytes, tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    content = text.encode() if isinstance(text, str) else text
    (folder / "splits.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"splits\.json: .*convert the task anew"):
        LAYOUT.read(PETS, folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"source": None},
        {"notes": "none"},
        {"class_names": [1, 2, 3]},
        {"splits": []},
        {"splits": {"test": {}}},
        {"splits": {"test": [["a.jpg", True, "00"]]}},
        {"splits": {"test": [["a.jpg", 1]]}},
        {"splits": {"test": [3]}},
    ],
)
def test_a_field_of_splits_json_of_the_wrong_form_is_named(
    changed: dict[str, object], tmp_path: Path
) -> None:
    folder = write(PETS, tmp_path / "pets")
    _write_manifest(folder, **changed)
    with pytest.raises(UsageError, match=r"splits\.json: .*must be"):
        LAYOUT.read(PETS, folder)


@pytest.mark.parametrize("joint", ["same files", "copies"])
def test_a_missing_val_list_is_had_from_the_joint_list(joint: str, tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets", joint)
    (folder / "val200.txt").unlink()
    reading = LAYOUT.read(PETS, folder)
    assert _labels(reading.val) == LABELS["val"]
    assert any("val200.txt is missing" in note for note in reading.notes)
    first = {"same files": "val200/000000.jpg", "copies": "train800val200/000006.jpg"}[joint]
    assert _names(reading.val or ())[0] == first


def test_a_val_list_that_cannot_be_had_is_asked_for(tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets", "absent")
    (folder / "val200.txt").unlink()
    with pytest.raises(UsageError, match=r"val200\.txt: missing, and there is no train800val200"):
        LAYOUT.read(PETS, folder)


@pytest.mark.parametrize("list_file", ["test.txt", "train800.txt"])
def test_a_joint_list_of_other_images_gives_no_val(list_file: str, tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    (folder / "val200.txt").unlink()
    (folder / "train800val200.txt").write_bytes((folder / list_file).read_bytes())
    with pytest.raises(UsageError, match=r"val200\.txt: missing, and cannot be had from"):
        LAYOUT.read(PETS, folder)


def test_fgvc_may_lack_val(tmp_path: Path) -> None:
    folder = write(CARS, tmp_path / "stanford_cars")
    (folder / "val.txt").unlink()
    assert LAYOUT.find(CARS, tmp_path) == folder
    assert LAYOUT.read(CARS, folder).val is None


def test_a_recorded_val_that_is_gone_is_not_passed_over(tmp_path: Path) -> None:
    folder = write(CARS, tmp_path / "cars")
    (folder / "val.txt").unlink()
    _write_manifest(folder, task="cars", splits={"val": []})
    with pytest.raises(UsageError, match=r"val\.txt: missing, but splits\.json records"):
        LAYOUT.read(CARS, folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/test/000000.jpg 3", "label 3 is too large"),
        ("images/test/000000.jpg -1", "label -1 is negative"),
        ("images/test/000000.jpg cat", "label 'cat' is not an integer"),
        ("images/test/none.jpg 0", "none.jpg does not exist"),
        ("images/test/000000.jpg", "one field"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(line: str, message: str, tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    _append(folder / "val200.txt", line)
    with pytest.raises(UsageError, match=rf"val200\.txt:4: .*{re.escape(message)}"):
        LAYOUT.read(PETS, folder)


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    (folder / "test.txt").write_text("\n")
    with pytest.raises(UsageError, match=r"test\.txt: empty"):
        LAYOUT.read(PETS, folder)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    before = LAYOUT.read(PETS, folder)
    for file in folder.glob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    after = LAYOUT.read(PETS, folder)
    assert _same(before, after)


def _same(one: Reading, other: Reading) -> bool:
    return (one.train, one.val, one.test) == (other.train, other.val, other.test)


@pytest.mark.parametrize("folder", ["dsprites", "dsprites_ori", "vtab-1k/dSprites-ori"])
def test_the_lists_of_another_task_on_the_same_images_are_passed_over(
    tmp_path: Path, folder: str
) -> None:
    write(row("dsprites_ori"), tmp_path / folder)
    assert LAYOUT.find(row("dsprites_loc"), tmp_path) is None
    assert LAYOUT.find(row("dsprites_loc"), tmp_path / folder) is None
    own = LAYOUT.find(row("dsprites_ori"), tmp_path)
    assert own == (None if folder == "dsprites" else tmp_path / folder)

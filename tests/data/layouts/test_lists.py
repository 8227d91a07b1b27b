import json
from pathlib import Path

import pytest

from miniature.lists import LABELS, row, write
from miniature.reading import Spoil, fails, filled, labels, read
from pcvpt.data.layouts import LAYOUTS
from pcvpt.data.layouts.lists import LAYOUT
from pcvpt.data.tasks.table import TASKS

PETS, CARS = row("pets"), row("cars")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write(PETS, tmp_path / "pets")


def _write_manifest(folder: Path, **changed: object) -> None:
    content: dict[str, object] = {
        "task": "pets",
        "source": "TFDS oxford_iiit_pet:3.2.0",
        "notes": ["three images are re-encoded"],
        "pcvpt": "0.1.0",
        "class_names": ["Abyssinian", "beagle", "Birman"],
        "splits": {},
    }
    (folder / "splits.json").write_text(json.dumps(content | changed))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_found_in_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for file in ("train800", "test") if TASKS[name].suite == "vtab" else ("train", "test"):
        (folder / f"{file}.txt").touch()
    assert LAYOUT in LAYOUTS
    assert LAYOUT.find(row(name), tmp_path) == LAYOUT.find(row(name), folder) == folder
    assert LAYOUT.required_files(row(name)).startswith("train")


@pytest.mark.parametrize("name", ["pets", "cars"])
def test_images_and_labels_are_those_in_the_lists(name: str, tmp_path: Path) -> None:
    folder = write(row(name), tmp_path / name)
    splits = read(LAYOUT, row(name), tmp_path)
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    assert {split: tuple(labels(items)) for split, items in parts.items()} == LABELS
    assert splits.test[2].source == folder / "images/test/000002.jpg"
    assert splits.source == f"list files in {folder}"
    assert "origin not recorded" in splits.notes[0]
    assert splits.class_names == ("0", "1", "2")


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
def test_without_lists_of_train_and_test_nothing_is_found(missing: str, pets: Path) -> None:
    (pets / missing).unlink()
    assert LAYOUT.find(PETS, pets) is None
    assert LAYOUT.find(PETS, pets / "none") is None


def test_splits_json_gives_source_notes_and_class_names(pets: Path) -> None:
    _write_manifest(pets)
    splits = LAYOUT.read(PETS, pets)
    assert splits.source.endswith("converted from: TFDS oxford_iiit_pet:3.2.0")
    assert splits.notes == ("three images are re-encoded",)
    assert splits.class_names == ("Abyssinian", "beagle", "Birman")


def _manifest(**changed: object) -> Spoil:
    return lambda file: _write_manifest(file.parent, **changed)


def _add(line: str) -> Spoil:
    return lambda file: file.write_text(file.read_text() + line)


FAULTS: list[tuple[str, Spoil, str]] = [
    ("splits.json", _manifest(task="dtd"), "dtd .. pets"),
    ("splits.json", _manifest(class_names=["a", "b"]), "2 class names .. pets .. 3 classes"),
    ("splits.json", _manifest(source=None), "source .. must be"),
    ("splits.json", _manifest(notes="none"), "notes .. must be"),
    ("splits.json", _manifest(notes=None), "notes .. must be"),
    ("splits.json", _manifest(class_names=[1, 2, 3]), "class_names .. must be"),
    ("splits.json", _manifest(splits=[]), "splits .. must be"),
    ("splits.json", _manifest(splits={"test": {}}), "test .. must be"),
    ("splits.json", _manifest(splits={"test": [["a.jpg", True, "00"]]}), "entry 1 .. must be"),
    ("splits.json", _manifest(splits={"test": [["a.jpg", 1]]}), "entry 1 .. test .. must be"),
    ("splits.json", _manifest(splits={"test": [["a", "1", "0"]]}), "entry 1 .. must be"),
    ("splits.json", _manifest(splits={"test": [3]}), "entry 1 .. test .. must be"),
    *(
        ("splits.json", filled(content), "convert the task again")
        for content in (b"", b"{", b"[]", b"{}", b"\0", b"[" * 100_000, b"\xff\xfe")
    ),
    ("val200.txt", _add("images/test/000000.jpg 3"), ":4: label 3 .. the 3 classes"),
    ("val200.txt", _add("images/test/000000.jpg -1"), ":4: .. -1"),
    ("val200.txt", _add("images/test/none.jpg 0"), "do not exist .. :4: .. none.jpg"),
    ("val200.txt", filled(b"\n"), "empty"),
]


@pytest.mark.parametrize(("file", "spoil", "words"), FAULTS)
def test_a_fault_is_named_with_its_file(file: str, spoil: Spoil, words: str, pets: Path) -> None:
    spoil(pets / file)
    fails(LAYOUT, PETS, pets, file, *words.split(" .. "))


def test_a_missing_val_list_is_asked_for(pets: Path) -> None:
    (pets / "val200.txt").unlink()
    fails(LAYOUT, PETS, pets, "val200.txt: cannot be read")


def test_fgvc_may_lack_val_unless_it_is_recorded(tmp_path: Path) -> None:
    folder = write(CARS, tmp_path / "stanford_cars")
    (folder / "val.txt").unlink()
    assert LAYOUT.find(CARS, tmp_path) == folder
    assert LAYOUT.read(CARS, folder).val is None
    _write_manifest(folder, task="cars", splits={"val": []})
    fails(LAYOUT, CARS, folder, "val.txt: cannot be read")


@pytest.mark.parametrize("folder", ["dsprites", "dsprites_ori", "vtab-1k/dSprites-ori"])
def test_the_lists_of_another_task_on_the_same_images_are_not_taken(
    tmp_path: Path, folder: str
) -> None:
    write(row("dsprites_ori"), tmp_path / folder)
    assert LAYOUT.find(row("dsprites_loc"), tmp_path) is None
    assert LAYOUT.find(row("dsprites_loc"), tmp_path / folder) is None
    own = LAYOUT.find(row("dsprites_ori"), tmp_path)
    assert own == (None if folder == "dsprites" else tmp_path / folder)

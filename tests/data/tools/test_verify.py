import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from miniature.images import noise
from miniature.lists import row, write
from miniature.reading import Spoil, replace_once
from pcvpt.data.hashes import digest, split_hash
from pcvpt.data.layouts.lists import LAYOUT
from pcvpt.data.splits import Item, Record, TaskSplits
from pcvpt.data.tasks.table import Task
from pcvpt.data.tools.convert import convert
from pcvpt.data.tools.verify import verify
from pcvpt.errors import UsageError

PETS, CARS = row("pets"), row("cars")


def _items(count: int, seed: int = 0, classes: int = 3) -> tuple[Item, ...]:
    return tuple(Item(noise(seed + number), number % classes) for number in range(count))


SOUND = TaskSplits(_items(6), _items(3, 100), _items(4, 200), ("a", "b", "c"), "invented")
WITHOUT_C = replace(SOUND, train=_items(6, classes=2))


def test_a_sound_task_has_no_problem_and_its_facts_are_told(tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    splits = LAYOUT.read(PETS, folder)
    told: list[tuple[int, int]] = []
    report = verify(PETS, splits, folder, 2, lambda done, total: told.append((done, total)))
    assert report.problems == ()
    assert report.notes == splits.notes
    facts = [(facts.split, facts.images, facts.classes) for facts in report.splits]
    assert facts == [("train", 6, 3), ("val", 3, 3), ("test", 4, 3)]
    hashed = split_hash((item.label, digest(item.source)) for item in splits.test)
    assert report.splits[2].hash == hashed
    assert told == [(number, 13) for number in range(1, 14)]


@pytest.mark.parametrize(
    ("task", "splits", "problems"),
    [
        (PETS, replace(SOUND, train=_items(5)), ["train has 5 images, but pets has 6"]),
        (PETS, replace(SOUND, test=()), ["test has 0 images, but pets has 4"]),
        (CARS, replace(SOUND, train=_items(9), val=None), []),  # train and val together
        (CARS, replace(SOUND, val=None), ["train has 6 images, but cars has 9"]),
        (PETS, WITHOUT_C, []),  # VTAB-1k takes the first images, whatever their classes
        (CARS, WITHOUT_C, ["train has no image of 1 classes:\n  2 c"]),
    ],
)
def test_counts_and_classes_are_compared_with_the_published_ones(
    task: Task, splits: TaskSplits, problems: list[str]
) -> None:
    assert list(verify(task, splits).problems) == problems


def _line(file: str, old: str, new: str) -> Spoil:
    return lambda folder: replace_once(folder / f"{file}.txt", old, new)


def _copied(source: str, target: str) -> Spoil:
    return lambda folder: shutil.copy(folder / source, folder / target)


def _flipped(place: int) -> Spoil:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / "images/train800/000002.jpg").read_bytes())
        content[place] ^= 1
        (folder / "images/train800/000002.jpg").write_bytes(content)

    return spoil


def _truncated(folder: Path) -> None:
    file = folder / "images/test/000001.jpg"
    file.write_bytes(file.read_bytes()[:-200])


def _emptied(folder: Path) -> None:
    for file in folder.glob("images/t*/*.jpg"):
        file.write_bytes(b"")


def _exchanged(folder: Path) -> None:
    val, test = (folder / "val200.txt").read_text(), (folder / "test.txt").read_text()
    (folder / "val200.txt").write_text(test)
    (folder / "test.txt").write_text(val)


NO, YES = "images/test/000000.jpg 0\n", "images/test/000001.jpg 0\n"
CHANGED = "train800.txt and splits.json differ in 1 images: .. 000002.jpg is not the file that is"
CHANGES: list[tuple[str, Spoil, str]] = [
    ("lists", _truncated, "1 of 13 images are damaged: .. test/000001.jpg: cannot be decoded"),
    ("lists", _emptied, "10 of 13 images are damaged: .. cannot be decoded .. \n  and 5 more"),
    (
        "lists",
        _copied("images/test/000000.jpg", "images/train800/000003.jpg"),
        "1 images are in another split too: .. images/test/000000.jpg, label 0 = train: "
        " .. images/train800/000003.jpg, label 1",
    ),
    (
        "lists",
        _exchanged,
        "val has 4 images, but pets has 3 .. test has 3 images, but pets has 4 .. val200.txt lists "
        "images from another split's folder: .. test.txt: images/val200/000000.jpg",
    ),
    (
        "lists",
        _line("train800", "train800/000001", "test/000001"),
        "train800.txt: images/test",
    ),
    (
        "converted",
        _line("test", "1.jpg 0", "1.jpg 2"),
        "test.txt and .. differ in 1 .. label 2, recorded 0",
    ),
    ("converted", _line("test", NO, ""), "differ in 1 .. is in splits.json only"),
    ("converted", _line("test", "test/000000", "val200/000000"), "is in test.txt only"),
    (
        "converted",
        _line("test", NO + YES, YES + NO),
        "differ in 2 .. 000000.jpg is in another place",
    ),
    ("converted", _copied("test.txt", "val200.txt"), "val200.txt and splits.json differ in 7"),
    *(("converted", _flipped(place), CHANGED) for place in (3, -60, -1)),
]


@pytest.mark.parametrize(("form", "change", "words"), CHANGES)
def test_a_change_is_found(form: str, change: Spoil, words: str, tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets")
    if form == "converted":
        folder = convert(PETS, LAYOUT.read(PETS, folder), tmp_path / "converted")
    change(folder)
    problems = "\n".join(verify(PETS, LAYOUT.read(PETS, folder), folder).problems)
    assert [word for word in words.split(" .. ") if word not in problems] == []


def test_a_file_that_vanishes_after_reading_is_a_problem(tmp_path: Path) -> None:
    folder = write(PETS, tmp_path)
    splits = LAYOUT.read(PETS, folder)
    (folder / "images/test/000001.jpg").unlink()
    report = verify(PETS, splits)
    assert "000001.jpg: cannot be read" in report.problems[0]
    assert report.splits[2].hash == ""


def test_damaged_records_and_the_same_item_in_two_splits_are_named() -> None:
    broken = Item(Record([b"broken"], 0, "pets.tfrecord: record 7"), 0)
    splits = replace(SOUND, val=(*_items(2, 100), broken), test=(SOUND.train[0], *_items(3, 200)))
    damaged, shared = verify(PETS, splits).problems
    assert "pets.tfrecord: record 7: cannot be decoded" in damaged
    assert "test: an array, label 0 = train: an array, label 0" in shared


@pytest.mark.parametrize(
    ("name", "label", "problems", "notes", "repeated"),
    [("pets", 2, 1, 0, 0), ("pets", 0, 0, 0, 1), ("dsprites_ori", 2, 0, 1, 0)],
)
def test_the_same_image_twice_is_a_fact_and_with_two_labels_a_problem_except_in_dsprites(
    name: str, label: int, problems: int, notes: int, repeated: int
) -> None:
    report = verify(row(name), replace(SOUND, train=(*_items(5), Item(noise(0), label))))
    assert (len(report.problems), len(report.notes)) == (problems, notes)
    assert all("in the same split with another" in each for each in report.problems + report.notes)
    assert [facts.repeated for facts in report.splits] == [repeated, 0, 0]


def test_val_of_fgvc_may_come_from_the_train_folder(tmp_path: Path) -> None:
    folder = write(CARS, tmp_path / "cars")
    shutil.move(folder / "images/val/000000.jpg", folder / "images/train/000099.jpg")
    replace_once(folder / "val.txt", "images/val/000000", "images/train/000099")
    assert verify(CARS, LAYOUT.read(CARS, folder), folder).problems == ()


def test_fewer_than_one_thread_is_refused() -> None:
    with pytest.raises(UsageError, match="jobs is 0"):
        verify(PETS, SOUND, jobs=0)

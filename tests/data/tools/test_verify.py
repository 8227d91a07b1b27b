import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from miniature.images import noise
from miniature.lists import row, write
from miniature.reading import replace_once
from pcvpt.data.hashes import digest, split_hash
from pcvpt.data.layouts.base import TaskSplits
from pcvpt.data.layouts.lists import LAYOUT
from pcvpt.data.splits import Item, Record
from pcvpt.data.tasks.task import Task
from pcvpt.data.tools.convert import convert
from pcvpt.data.tools.verify import Report, verify
from pcvpt.errors import UsageError

PETS, CARS = row("pets"), row("cars")


def _verify(folder: Path, task: Task = PETS) -> Report:
    return verify(task, LAYOUT.read(task, folder), folder)


def _problem(report: Report) -> str:
    """Return the only problem that there is."""
    (problem,) = report.problems
    return problem


def _items(count: int, seed: int = 0, classes: int = 3) -> tuple[Item, ...]:
    return tuple(Item(noise(seed + number), number % classes) for number in range(count))


SOUND = TaskSplits(_items(6), _items(3, 100), _items(4, 200), ("a", "b", "c"), "invented")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """List files as they are in circulation."""
    return write(PETS, tmp_path / "pets")


@pytest.mark.parametrize("joint", ["same files", "copies", "absent"])
def test_a_sound_task_has_no_problem_and_its_facts_are_told(joint: str, tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets", joint)
    splits = LAYOUT.read(PETS, folder)
    told: list[tuple[int, int]] = []
    report = verify(PETS, splits, folder, 2, lambda done, total: told.append((done, total)))
    assert report.problems == ()
    assert report.notes == splits.notes
    facts = [(facts.name, facts.count, facts.classes) for facts in report.splits]
    assert facts == [("train", 6, 3), ("val", 3, 3), ("test", 4, 3)]
    assert report.splits[2].hash == split_hash(
        (item.label, digest(item.source)) for item in splits.test
    )
    total = 22 if joint == "copies" else 13
    assert told == [(number, total) for number in range(1, total + 1)]


def _without_c(splits: TaskSplits) -> TaskSplits:
    return replace(splits, train=_items(6, classes=2))


@pytest.mark.parametrize(
    ("task", "splits", "problems"),
    [
        (PETS, replace(SOUND, train=_items(5)), ["train has 5 images, but pets has 6"]),
        (PETS, replace(SOUND, test=()), ["test has 0 images, but pets has 4"]),
        (CARS, replace(SOUND, train=_items(9), val=None), []),  # train and val together
        (CARS, replace(SOUND, val=None), ["train has 6 images, but cars has 9"]),
        (PETS, _without_c(SOUND), []),  # VTAB-1k takes the first images, whatever their classes
        (CARS, _without_c(SOUND), ["train has no image of 1 classes:\n  2 c"]),
        (replace(PETS, num_classes=4), SOUND, ["3 classes are named, but pets has 4"]),
        (
            replace(PETS, num_classes=2),
            replace(SOUND, val=_items(3, 100, 2), test=_items(4, 200, 2)),
            ["3 classes are named, but pets has 2", "train has labels outside 0 to 1:\n  2"],
        ),
    ],
)
def test_counts_and_classes_are_compared_with_the_published_ones(
    task: Task, splits: TaskSplits, problems: list[str]
) -> None:
    report = verify(task, splits)
    assert list(report.problems) == problems


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


@pytest.mark.parametrize(
    "damage",
    [_truncate, lambda file: file.write_bytes(b""), lambda file: file.write_text("no image")],
)
def test_files_that_cannot_be_decoded_are_named(
    damage: Callable[[Path], object], plain: Path
) -> None:
    damage(plain / "images/test/000001.jpg")
    (plain / "train800val200.txt").unlink()
    problem = _problem(_verify(plain))
    assert problem.startswith("1 of 13 images are damaged:\n")
    assert "images/test/000001.jpg: cannot be decoded" in problem


def test_of_many_damaged_files_a_few_are_named(plain: Path) -> None:
    for file in plain.glob("images/t*/*.jpg"):
        file.write_bytes(b"")
    problem = _problem(_verify(plain))
    assert problem.startswith("10 of 13 images are damaged:\n")
    assert problem.count("cannot be decoded") == 5
    assert problem.endswith("\n  and 5 more")


def test_a_file_that_vanishes_after_reading_is_a_problem(plain: Path) -> None:
    splits = LAYOUT.read(PETS, plain)
    (plain / "images/test/000001.jpg").unlink()
    report = verify(PETS, splits)
    assert "000001.jpg: cannot be read" in _problem(report)
    assert report.splits[2].hash == ""


def test_damaged_records_are_named() -> None:
    broken = Item(Record([b"broken"], 0, "pets.tfrecord: record 7"), 0)
    report = verify(PETS, replace(SOUND, val=(*_items(2, 100), broken)))
    assert "pets.tfrecord: record 7: cannot be decoded" in _problem(report)


def test_a_test_image_copied_into_train_is_found(plain: Path) -> None:
    shutil.copy(plain / "images/test/000000.jpg", plain / "images/train800/000003.jpg")
    problem = _problem(_verify(plain))
    assert problem.startswith("1 images are in another split too:\n")
    assert "images/test/000000.jpg, label 0 = train: " in problem
    assert "images/train800/000003.jpg, label 1" in problem


def test_the_same_item_in_two_splits_is_found() -> None:
    report = verify(PETS, replace(SOUND, test=(SOUND.train[0], *SOUND.test[1:])))
    assert "test: an array, label 0 = train: an array, label 0" in _problem(report)


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


def test_exchanged_lists_are_found_without_a_record(plain: Path) -> None:
    (plain / "train800val200.txt").unlink()
    val, test = (plain / "val200.txt").read_bytes(), (plain / "test.txt").read_bytes()
    (plain / "val200.txt").write_bytes(test)
    (plain / "test.txt").write_bytes(val)
    counts, others = _verify(plain).problems[:2], _verify(plain).problems[2:]
    assert counts == ("val has 4 images, but pets has 3", "test has 3 images, but pets has 4")
    assert "val200.txt lists images from another split's folder:" in others[0]
    assert "test.txt: images/val200/000000.jpg" in others[1]


def test_val_of_fgvc_may_come_from_the_train_folder(tmp_path: Path) -> None:
    folder = write(CARS, tmp_path / "cars")
    shutil.move(folder / "images/val/000000.jpg", folder / "images/train/000099.jpg")
    replace_once(folder / "val.txt", "images/val/000000", "images/train/000099")
    assert _verify(folder, CARS).problems == ()


@pytest.mark.parametrize("joint", ["same files", "copies"])
def test_labels_that_differ_from_the_joint_list_are_found(joint: str, tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets", joint)
    replace_once(folder / "val200.txt", "000001.jpg 2", "000001.jpg 0")
    problem = _problem(_verify(folder))
    assert problem.startswith("train800val200.txt is not train800.txt and val200.txt together:")
    assert "images/val200/000001.jpg, label 0, is in train800.txt or val200.txt only" in problem


@pytest.mark.parametrize(
    ("convert_first", "file", "old", "new", "words"),
    [
        (False, "train800", "train800/000001", "test/000001", "train800.txt: images/test/000001"),
        (False, "train800val200", "000000", "none", "train800val200.txt:1: image .. none.jpg"),
        (True, "test", "1.jpg 0", "1.jpg 2", "test.txt has 1 labels .. 1.jpg: label 2, recorded 0"),
        (True, "test", "images/test/000000.jpg 0\n", "", "differ in 1 .. is in splits.json only"),
        (True, "test", "test/000000", "val200/000000", "is in test.txt only"),
        (
            True,
            "test",
            "images/test/000000.jpg 0\nimages/test/000001.jpg 0\n",
            "images/test/000001.jpg 0\nimages/test/000000.jpg 0\n",
            "test.txt has another order",
        ),
    ],
)
def test_a_changed_line_of_a_list_is_found(
    plain: Path, tmp_path: Path, convert_first: bool, file: str, old: str, new: str, words: str
) -> None:
    folder = plain
    if convert_first:
        folder = convert(PETS, LAYOUT.read(PETS, plain), tmp_path / "converted")
    assert _verify(folder).problems == ()
    replace_once(folder / f"{file}.txt", old, new)
    problems = "\n".join(_verify(folder).problems)
    assert [word for word in words.split(" .. ") if word not in problems] == []


def test_a_changed_image_and_a_swapped_list_are_found_by_the_record(
    plain: Path, tmp_path: Path
) -> None:
    folder = convert(PETS, LAYOUT.read(PETS, plain), tmp_path / "converted")
    file = folder / "images/train800/000002.jpg"
    content = file.read_bytes()
    for place in 3, len(content) - 60, len(content) - 1:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        problem = _verify(folder).problems[-1]
        assert "train800 are not the files that splits.json records" in problem
        assert problem.endswith("images/train800/000002.jpg")
    file.write_bytes(content)
    shutil.copy(folder / "test.txt", folder / "val200.txt")
    problems = "\n".join(_verify(folder).problems)
    assert "val200.txt and splits.json differ in 7 images" in problems
    assert "val200.txt lists images from another split's folder" in problems


def test_fewer_than_one_thread_is_refused() -> None:
    with pytest.raises(UsageError, match="jobs is 0"):
        verify(PETS, SOUND, jobs=0)

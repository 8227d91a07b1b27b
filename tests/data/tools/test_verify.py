import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from miniature.lists import noise, row, write
from pcvpt.data.hashes import split_hash
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


def _problem(folder: Path, task: Task = PETS) -> str:
    """Return the only problem that there is."""
    (problem,) = _verify(folder, task).problems
    return problem


def _items(count: int, seed: int = 0, classes: int = 3) -> tuple[Item, ...]:
    return tuple(Item(noise(seed + number), number % classes) for number in range(count))


def _reading(
    train: tuple[Item, ...], val: tuple[Item, ...] | None, test: tuple[Item, ...]
) -> TaskSplits:
    return TaskSplits(train, val, test, ("a", "b", "c"), "made up")


def _sound() -> TaskSplits:
    return _reading(_items(6), _items(3, 100), _items(4, 200))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """List files as they are in circulation."""
    return write(PETS, tmp_path / "pets")


@pytest.fixture
def recorded(plain: Path, tmp_path: Path) -> Path:
    """List files with splits.json."""
    return convert(PETS, LAYOUT.read(PETS, plain), tmp_path / "converted")


@pytest.mark.parametrize("joint", ["same files", "copies", "absent"])
def test_a_sound_task_has_no_problem_and_its_facts_are_told(joint: str, tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets", joint)
    reading = LAYOUT.read(PETS, folder)
    report = verify(PETS, reading, folder)
    assert report.problems == ()
    assert report.notes == reading.notes
    assert [facts.name for facts in report.splits] == ["train", "val", "test"]
    assert [facts.count for facts in report.splits] == [6, 3, 4]
    assert [facts.classes for facts in report.splits] == [3, 3, 3]
    assert report.splits[2].hash == split_hash(reading.test)


def test_a_converted_task_has_no_problem(recorded: Path) -> None:
    assert _verify(recorded).problems == ()


def test_counts_that_differ_from_the_published_ones_are_problems() -> None:
    report = verify(PETS, _reading(_items(5), _items(3, 100), _items(5, 200)))
    assert report.problems == (
        "train has 5 images, but pets has 6",
        "test has 5 images, but pets has 4",
    )
    assert report.splits[0].expected == 6


def test_an_undivided_train_is_measured_by_train_and_val_together() -> None:
    assert verify(CARS, _reading(_items(9), None, _items(4, 200))).problems == ()
    (problem,) = verify(CARS, _reading(_items(6), None, _items(4, 200))).problems
    assert problem == "train has 6 images, but cars has 9"


def test_an_empty_split_is_a_problem() -> None:
    report = verify(PETS, replace(_sound(), test=()))
    assert report.problems == ("test has 0 images, but pets has 4",)
    assert report.splits[2].absent == (0, 1, 2)


def test_a_class_that_train_lacks_is_a_fact_of_vtab_and_a_problem_of_fgvc() -> None:
    reading = _reading(_items(6, classes=2), _items(3, 100), _items(4, 200))
    report = verify(PETS, reading)
    assert report.problems == ()
    assert report.splits[0].absent == (2,)
    (problem,) = verify(CARS, reading).problems
    assert problem == "train has no image of 1 classes:\n  2 c"


def test_more_or_fewer_classes_than_the_task_has_are_a_problem() -> None:
    more = replace(PETS, num_classes=2)
    report = verify(more, _sound())
    assert report.problems[0] == "3 classes are named, but pets has 2"
    assert report.problems[1] == "train has labels outside 0 to 1:\n  2"
    (problem,) = verify(replace(PETS, num_classes=4), _sound()).problems
    assert problem == "3 classes are named, but pets has 4"


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
    problem = _problem(plain)
    assert problem.startswith("1 of 13 images are damaged:\n")
    assert "images/test/000001.jpg: cannot be decoded" in problem


def test_of_many_damaged_files_a_few_are_named(plain: Path) -> None:
    for file in plain.glob("images/t*/*.jpg"):
        file.write_bytes(b"")
    problem = _problem(plain)
    assert problem.startswith("10 of 13 images are damaged:\n")
    assert problem.count("cannot be decoded") == 5
    assert problem.endswith("\n  and 5 more")


def test_a_file_that_vanishes_after_reading_is_a_problem(plain: Path) -> None:
    reading = LAYOUT.read(PETS, plain)
    (plain / "images/test/000001.jpg").unlink()
    report = verify(PETS, reading)
    assert "000001.jpg: cannot be read (No such file" in report.problems[0]
    assert report.splits[2].hash == ""


def test_damaged_records_are_named() -> None:
    broken = Item(Record([b"broken"], 0, "pets.tfrecord: record 7"), 0)
    (problem,) = verify(PETS, replace(_sound(), val=(*_items(2, 100), broken))).problems
    assert "pets.tfrecord: record 7: cannot be decoded" in problem


def test_a_test_image_copied_into_train_is_found(plain: Path) -> None:
    shutil.copy(plain / "images/test/000000.jpg", plain / "images/train800/000003.jpg")
    problem = _problem(plain)
    assert problem.startswith("1 images are in another split too:\n")
    assert "images/test/000000.jpg, label 0 = train: " in problem
    assert "images/train800/000003.jpg, label 1" in problem


def test_the_very_same_item_in_two_splits_is_found() -> None:
    sound = _sound()
    (problem,) = verify(PETS, replace(sound, test=(sound.train[0], *sound.test[1:]))).problems
    assert problem == (
        "1 images are in another split too:\n  test: an array, label 0 = train: an array, label 0"
    )


def test_the_same_image_with_two_labels_is_a_problem() -> None:
    train = (*_items(5), Item(noise(0), 2))
    (problem,) = verify(PETS, replace(_sound(), train=train)).problems
    assert problem.startswith("1 images are in the same split with another label too:\n")


def test_the_same_image_twice_with_one_label_is_a_fact() -> None:
    train = (*_items(5), Item(noise(0), 0))
    report = verify(PETS, replace(_sound(), train=train))
    assert report.problems == ()
    assert [facts.repeated for facts in report.splits] == [1, 0, 0]


def test_equal_images_of_dsprites_are_known() -> None:
    train = (*_items(5), Item(noise(0), 2))
    report = verify(row("dsprites_ori"), replace(_sound(), train=train))
    assert report.problems == ()
    assert "as dSprites is known for, 1 images are in the same split" in report.notes[0]


def test_exchanged_lists_are_found_without_a_record(plain: Path) -> None:
    (plain / "train800val200.txt").unlink()
    val, test = (plain / "val200.txt").read_bytes(), (plain / "test.txt").read_bytes()
    (plain / "val200.txt").write_bytes(test)
    (plain / "test.txt").write_bytes(val)
    problems = _verify(plain).problems
    assert problems[:2] == (
        "val has 4 images, but pets has 3",
        "test has 3 images, but pets has 4",
    )
    assert "val200.txt lists images from another split's folder:" in problems[2]
    assert "test.txt: images/val200/000000.jpg" in problems[3]


def test_one_line_that_points_into_the_test_folder_is_found(plain: Path) -> None:
    file = plain / "train800.txt"
    file.write_text(file.read_text().replace("images/train800/000001", "images/test/000001"))
    problems = _verify(plain).problems
    assert any("train800.txt: images/test/000001.jpg" in problem for problem in problems)


def test_val_of_fgvc_may_come_from_the_train_folder(tmp_path: Path) -> None:
    folder = write(CARS, tmp_path / "cars")
    shutil.move(folder / "images/val/000000.jpg", folder / "images/train/000099.jpg")
    file = folder / "val.txt"
    file.write_text(file.read_text().replace("images/val/000000", "images/train/000099"))
    assert _verify(folder, CARS).problems == ()


@pytest.mark.parametrize("joint", ["same files", "copies"])
def test_labels_that_differ_from_the_joint_list_are_found(joint: str, tmp_path: Path) -> None:
    folder = write(PETS, tmp_path / "pets", joint)
    file = folder / "val200.txt"
    file.write_text(file.read_text().replace("000001.jpg 2", "000001.jpg 0"))
    problem = _problem(folder)
    assert problem.startswith("train800val200.txt is not train800.txt and val200.txt together:")
    assert "images/val200/000001.jpg, label 0, is in train800.txt or val200.txt only" in problem


def test_a_joint_list_that_cannot_be_read_is_a_problem(plain: Path) -> None:
    (plain / "train800val200.txt").write_text("images/none.jpg 1")
    assert "train800val200.txt:1: image" in _problem(plain)


@pytest.mark.parametrize("offset", [-60, -1, 3])
def test_one_flipped_byte_of_an_image_is_found_by_the_record(offset: int, recorded: Path) -> None:
    file = recorded / "images/train800/000002.jpg"
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)
    problem = _verify(recorded).problems[-1]
    assert problem == (
        "1 images of train800 are not the files that splits.json records:\n"
        "  images/train800/000002.jpg"
    )


def test_a_label_that_differs_from_the_record_is_found(recorded: Path) -> None:
    file = recorded / "test.txt"
    file.write_text(file.read_text().replace("000001.jpg 0", "000001.jpg 2"))
    assert _problem(recorded) == (
        "test.txt has 1 labels other than splits.json records:\n"
        "  images/test/000001.jpg: label 2, recorded 0"
    )


def test_another_order_than_the_recorded_one_is_found(recorded: Path) -> None:
    file = recorded / "test.txt"
    file.write_text("".join(sorted(file.read_text().splitlines(keepends=True), reverse=True)))
    assert _problem(recorded) == "test.txt has another order than splits.json records"


def test_lines_that_are_gone_or_new_are_found_by_the_record(recorded: Path) -> None:
    file = recorded / "test.txt"
    first, *others = file.read_text().splitlines(keepends=True)
    Image.fromarray(noise(999)).save(recorded / "images/test/new.png")
    file.write_text("".join([*others, "images/test/new.png 1\n"]))
    assert _problem(recorded) == (
        "test.txt and splits.json differ in 2 images:\n"
        "  images/test/000000.jpg is in splits.json only\n"
        "  images/test/new.png is in test.txt only"
    )
    assert first.startswith("images/test/000000.jpg")


def test_a_swapped_list_is_found_by_the_record(recorded: Path) -> None:
    shutil.copy(recorded / "test.txt", recorded / "val200.txt")
    problems = "\n".join(_verify(recorded).problems)
    assert "val200.txt and splits.json differ in 7 images" in problems
    assert "val200.txt lists images from another split's folder" in problems


def test_progress_is_told_to_the_end(plain: Path) -> None:
    told: list[tuple[int, int]] = []
    reading = LAYOUT.read(PETS, plain)
    verify(PETS, reading, plain, jobs=2, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 13) for number in range(1, 14)]


def test_no_job_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="jobs is 0, but must be at least 1"):
        verify(PETS, _sound(), jobs=0)

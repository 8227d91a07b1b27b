import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from miniature import fgvc
from miniature.fgvc import Written
from pcvpt.data.layouts import find
from pcvpt.data.layouts.base import Reading
from pcvpt.data.layouts.original import LAYOUT
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError

WRITERS: list[tuple[str, Callable[[Path], Written]]] = [
    ("cub", fgvc.write_cub),
    ("nabirds", fgvc.write_nabirds),
    ("flowers", fgvc.write_flowers),
    ("dogs", fgvc.write_dogs),
    ("cars", fgvc.write_cars_devkit),
    ("cars", fgvc.write_cars_annos),
    ("cars", fgvc.write_cars_csv),
]
FGVC = ["cub", "nabirds", "flowers", "dogs", "cars"]
MATS = {"flowers": "imagelabels.mat", "dogs": "train_list.mat", "cars": "cars_annos.mat"}


def _read(name: str, folder: Path, classes: int = 3) -> Reading:
    task = replace(TASKS[name], num_classes=classes)
    found = LAYOUT.find(task, folder)
    assert found is not None
    return LAYOUT.read(task, found)


def _check(reading: Reading, written: Written) -> None:
    assert dict(reading.train) == written.train
    assert (reading.val and dict(reading.val)) == written.val
    assert dict(reading.test) == written.test
    assert reading.class_names == written.class_names


def _fails(name: str, folder: Path, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        _read(name, folder)


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("classes", [1, 3])
def test_images_labels_and_names_are_those_that_were_written(
    name: str, write: Callable[..., Written], classes: int, tmp_path: Path
) -> None:
    folder = tmp_path / TASKS[name].folders[0]
    written = write(folder, classes=classes)
    assert LAYOUT.find(TASKS[name], tmp_path) == folder
    reading = _read(name, tmp_path, classes)
    _check(reading, written)
    assert str(folder) in reading.source


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_missing_image_is_named(
    name: str, write: Callable[[Path], Written], tmp_path: Path
) -> None:
    image = list(write(tmp_path).train)[-1]
    image.unlink()
    _fails(name, tmp_path, f"listed images do not exist; add them or correct the file:\n  {image}")


def test_only_fgvc_tasks_have_it(tmp_path: Path) -> None:
    fgvc.write_flowers(tmp_path)
    assert [name for name, task in TASKS.items() if LAYOUT.expected(task)] == FGVC
    assert LAYOUT.find(TASKS["flowers102"], tmp_path) is None


def test_where_it_is_missing_the_error_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"original: .*cars_test_annos_withlabels\.mat"):
        find(TASKS["cars"], tmp_path)


# CUB and NABirds


def test_cub_and_nabirds_are_told_apart(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path / "cub")
    fgvc.write_nabirds(tmp_path / "nabirds")
    assert LAYOUT.find(TASKS["cub"], tmp_path / "nabirds") is None
    assert LAYOUT.find(TASKS["nabirds"], tmp_path / "cub") is None


def test_the_classes_of_nabirds_are_those_with_images(tmp_path: Path) -> None:
    fgvc.write_nabirds(tmp_path)
    lines = (tmp_path / "image_class_labels.txt").read_text().split()
    assert set(lines[1::2]) == {"295", "298", "301"}
    reading = _read("nabirds", tmp_path)
    assert reading.class_names == ("Oak Titmouse", "Brant (Adult)", "Snow Goose")
    assert [item.label for item in reading.test] == [0, 1, 2] * 2


def test_a_class_that_train_lacks_shifts_no_label(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path)
    ids = [line.split()[1] for line in (tmp_path / "image_class_labels.txt").open()]
    flags = "".join(f"{n} {int(i == '3')}\n" for n, i in enumerate(ids, start=1))
    (tmp_path / "train_test_split.txt").write_text(flags)
    reading = _read("cub", tmp_path)
    assert {item.label for item in reading.train} == {2}
    assert {item.label for item in reading.test} == {0, 1}


def test_paths_of_birds_may_contain_blanks(tmp_path: Path) -> None:
    first = next(iter(fgvc.write_cub(tmp_path).test))
    first.rename(first.with_name("my bird.jpg"))
    text = (tmp_path / "images.txt").read_text().replace("/1.jpg\n", "/my bird.jpg\r\n")
    (tmp_path / "images.txt").write_bytes(text.encode("utf-8-sig"))
    assert _read("cub", tmp_path).test[0].source == first.with_name("my bird.jpg")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("images", "2 0", "2\n2 0", "images.txt:2: '2' is one field"),
        ("images", "2 0", "1 0", "images.txt:2: 1 is listed twice"),
        ("images", "2 0", "99 0", "train_test_split.txt: no line for image 99"),
        ("images", "2 0", "2 ../0", "images.txt:2: '../002"),
        ("images", "2 0", "2 /0", "leads out of"),
        ("train_test_split", "2 0", "2 2", "train_test_split.txt:2: '2' is neither 1"),
        ("train_test_split", "18 1\n", "", "train_test_split.txt: no line for image 18"),
        ("train_test_split", "18 1\n", "18 1\n19 1", "image 19 is not in images.txt"),
        ("image_class_labels", "2 2", "2 two", "image_class_labels.txt:2: class 'two'"),
        ("image_class_labels", "2 2", "2 4", "classes.txt: no name of class 4"),
        ("classes", "2 002", "4 002", "classes.txt: no name of class 2"),
        ("classes", "2 002", "x 002", "classes.txt: class 'x' is not a number"),
    ],
)
def test_a_bad_line_of_birds_is_named(
    file: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    fgvc.write_cub(tmp_path)
    path = tmp_path / f"{file}.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    _fails("cub", tmp_path, message)


def test_birds_in_one_split_are_refused(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path)
    path = tmp_path / "train_test_split.txt"
    path.write_text(path.read_text().replace(" 0\n", " 1\n"))
    _fails("cub", tmp_path, "train_test_split.txt: all images are in one split")


def test_birds_of_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    fgvc.write_nabirds(tmp_path, classes=2)
    _fails("nabirds", tmp_path, "image_class_labels.txt: images of 2 classes, but nabirds")


def test_a_missing_file_of_birds_is_named(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path)
    (tmp_path / "classes.txt").unlink()
    _fails("cub", tmp_path, "classes.txt: cannot be read (No such file")


# MATLAB files


def test_the_official_validation_split_of_flowers_is_taken(tmp_path: Path) -> None:
    fgvc.write_flowers(tmp_path)
    val = _read("flowers", tmp_path).val
    assert val is not None
    first = Path(str(val[0].source)), val[0].label  # 6 test, then 12 train, then val
    assert first == (tmp_path / "jpg" / "image_00019.jpg", 2)


def test_a_flower_without_a_label_is_named(tmp_path: Path) -> None:
    fgvc.write_flowers(tmp_path)
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[1, 2, 3]])})
    _fails("flowers", tmp_path, "setid.mat: trnid has image 7, but imagelabels.mat has images 1 to")


def test_lists_of_dogs_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    written = fgvc.write_dogs(tmp_path, lists="lists")
    _check(_read("dogs", tmp_path), written)


def test_images_unpacked_into_a_folder_of_their_own_name_are_found(tmp_path: Path) -> None:
    fgvc.write_dogs(tmp_path)
    (tmp_path / "Images").rename(tmp_path / "inner")
    (tmp_path / "images").mkdir()
    (tmp_path / "inner").rename(tmp_path / "images" / "Images")
    train = _read("dogs", tmp_path).train
    assert all(tmp_path / "images" / "Images" in Path(str(i.source)).parents for i in train)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [[1], [2]]}, "train_list.mat: file_list is missing"),
        ({"file_list": ["a/b.jpg"]}, "train_list.mat: labels is missing"),
        ({"file_list": [[1.0]], "labels": [[1]]}, "file_list holds something else than strings"),
        ({"file_list": ["a/b.jpg"], "labels": ["x"]}, "labels holds something else than numbers"),
        ({"file_list": ["a/b.jpg"], "labels": [[1.5]]}, "labels holds something else than int"),
        ({"file_list": ["a/b.jpg"], "labels": [[np.nan]]}, "labels holds something else than int"),
        ({"file_list": ["a/b.jpg"], "labels": np.empty((0, 0))}, "labels is empty"),
        ({"file_list": ["a/b.jpg"], "labels": [[4]]}, "labels has class 4, which is not in [1, 3]"),
        ({"file_list": ["a/b.jpg"], "labels": [[0]]}, "labels has class 0, which is not in [1, 3]"),
        ({"file_list": ["a/b.jpg"], "labels": [[1], [2]]}, "1 images, but 2 labels"),
        ({"file_list": ["../b.jpg"], "labels": [[1]]}, "train_list.mat: '../b.jpg' leads out of"),
        ({"file_list": ["a.jpg", "a.jpg"], "labels": [[1, 2]]}, "lists an image twice"),
    ],
)
def test_a_bad_variable_is_named(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    fgvc.write_dogs(tmp_path)
    savemat(tmp_path / "train_list.mat", content)
    _fails("dogs", tmp_path, message)


def test_a_matlab_7_3_file_is_named(tmp_path: Path) -> None:
    fgvc.write_dogs(tmp_path)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "train_list.mat").write_bytes(header.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n")
    _fails("dogs", tmp_path, "train_list.mat: a MATLAB 7.3 file")


@pytest.mark.parametrize("content", [b"", b"no MATLAB file", b"\0" * 200, b"<html>" * 100])
def test_a_file_that_is_not_matlab_s_is_named(content: bytes, tmp_path: Path) -> None:
    fgvc.write_dogs(tmp_path)
    (tmp_path / "train_list.mat").write_bytes(content)
    _fails("dogs", tmp_path, "train_list.mat: ")


@pytest.mark.parametrize("name", MATS)
def test_a_truncated_or_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    {"flowers": fgvc.write_flowers, "dogs": fgvc.write_dogs, "cars": fgvc.write_cars_annos}[name](
        tmp_path, per_class=1
    )
    file = tmp_path / MATS[name]
    content = file.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 40)):
        file.write_bytes(content[:length])
        with pytest.raises(UsageError, match=file.name):
            _read(name, tmp_path)
    for place in np.random.default_rng(0).integers(128, len(content), 60):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :])
        _fails(name, tmp_path, file.name)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example writes it anew
)
@given(
    st.binary()
    | st.text(st.sampled_from('",\n\r;\0 a1'), max_size=40).map(
        lambda text: f"image,class\n{text}".encode()
    )
)
def test_no_text_ends_in_another_error(tmp_path: Path, content: bytes) -> None:
    for name in "train.csv", "images.txt", "train_test_split.txt", "image_class_labels.txt":
        (tmp_path / name).write_bytes(content)
    (tmp_path / "test.csv").write_bytes(content)
    (tmp_path / "images").mkdir(exist_ok=True)
    for name in "cars", "cub":
        with pytest.raises(UsageError):
            _read(name, tmp_path)

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
from miniature.reading import check, fails, labels, read, replace_once
from pcvpt.data.layouts import find
from pcvpt.data.layouts.original import LAYOUT
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

WRITERS: list[tuple[str, Callable[..., Written]]] = [
    ("cub", fgvc.write_cub),
    ("nabirds", fgvc.write_nabirds),
    ("flowers", fgvc.write_flowers),
    ("dogs", fgvc.write_dogs),
    ("cars", fgvc.write_cars_devkit),
    ("cars", fgvc.write_cars_annos),
    ("cars", fgvc.write_cars_csv),
]
MATS = {"flowers": "imagelabels.mat", "dogs": "train_list.mat", "cars": "cars_annos.mat"}


def _small(name: str, classes: int = 3) -> Task:
    return replace(TASKS[name], num_classes=classes)


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("classes", [1, 3])
def test_images_labels_and_names_are_those_that_were_written(
    name: str, write: Callable[..., Written], classes: int, tmp_path: Path
) -> None:
    folder = tmp_path / TASKS[name].folders[0]
    written = write(folder, classes=classes, per_class=2)
    assert LAYOUT.find(TASKS[name], tmp_path) == folder
    splits = read(LAYOUT, _small(name, classes), tmp_path)
    check(splits, written)
    assert str(folder) in splits.source
    image = list(written.train)[-1]
    image.unlink()
    fails(LAYOUT, _small(name, classes), tmp_path, "listed images do not exist", str(image))


def test_only_fgvc_tasks_have_it(tmp_path: Path) -> None:
    fgvc.write_flowers(tmp_path)
    fgvc_tasks = [name for name, task in TASKS.items() if task.suite == "fgvc"]
    assert [name for name, task in TASKS.items() if LAYOUT.required_files(task)] == fgvc_tasks
    assert LAYOUT.find(TASKS["flowers102"], tmp_path) is None


def test_where_it_is_missing_the_error_names_the_files(tmp_path: Path) -> None:
    (tmp_path / "cars").mkdir()
    (tmp_path / "cars" / "readme.txt").touch()
    with pytest.raises(
        UsageError, match=r"(?s)original: .*cars_test_annos_withlabels\.mat.*readme"
    ):
        find(TASKS["cars"], tmp_path)
    with pytest.raises(UsageError, match=r"layout is 'tfds'.*cars.*original"):
        find(TASKS["cars"], tmp_path, "tfds")


# CUB and NABirds


def test_cub_and_nabirds_are_distinguished(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path / "cub")
    fgvc.write_nabirds(tmp_path / "nabirds")
    assert LAYOUT.find(TASKS["cub"], tmp_path / "nabirds") is None
    assert LAYOUT.find(TASKS["nabirds"], tmp_path / "cub") is None


def test_the_classes_of_nabirds_are_those_with_images(tmp_path: Path) -> None:
    fgvc.write_nabirds(tmp_path)
    lines = (tmp_path / "image_class_labels.txt").read_text().split()
    assert set(lines[1::2]) == {"295", "298", "301"}
    splits = read(LAYOUT, _small("nabirds"), tmp_path)
    assert splits.class_names == ("Oak Titmouse", "Brant (Adult)", "Snow Goose")
    assert labels(splits.test) == [0, 1, 2] * 2


def test_a_class_that_train_lacks_shifts_no_label(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path)
    ids = [line.split()[1] for line in (tmp_path / "image_class_labels.txt").open()]
    flags = "".join(f"{n} {int(i == '3')}\n" for n, i in enumerate(ids, start=1))
    (tmp_path / "train_test_split.txt").write_text(flags)
    splits = read(LAYOUT, _small("cub"), tmp_path)
    assert set(labels(splits.train)) == {2}
    assert set(labels(splits.test)) == {0, 1}


def test_paths_of_birds_may_contain_blanks(tmp_path: Path) -> None:
    first = next(iter(fgvc.write_cub(tmp_path).test))
    first.rename(first.with_name("my bird.jpg"))
    text = (tmp_path / "images.txt").read_text().replace("/1.jpg\n", "/my bird.jpg\r\n")
    (tmp_path / "images.txt").write_bytes(text.encode("utf-8-sig"))
    test = read(LAYOUT, _small("cub"), tmp_path).test
    assert test[0].source == first.with_name("my bird.jpg")


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("images", "2 0", "2\n2 0", ["images.txt:2: '2' is one field"]),
        ("images", "2 0", "1 0", ["images.txt:2: 1 is listed twice"]),
        ("images", "2 0", "99 0", ["train_test_split.txt: no line for image 99"]),
        ("images", "2 0", "2 ../0", ["images.txt:2: '../002"]),
        ("images", "2 0", "2 /0", ["leads out of"]),
        ("train_test_split", "2 0", "2 2", ["train_test_split.txt:2: '2' is neither 1"]),
        ("train_test_split", "18 1\n", "", ["train_test_split.txt: no line for image 18"]),
        ("train_test_split", "18 1\n", "18 1\n19 1", ["image 19 is not in images.txt"]),
        ("image_class_labels", "2 2", "2 two", ["image_class_labels.txt:2: class 'two'"]),
        ("image_class_labels", "2 2", "2 4", ["classes.txt: no name of class 4"]),
        ("classes", "2 002", "4 002", ["classes.txt: no name of class 2"]),
        ("classes", "2 002", "x 002", ["classes.txt: class 'x' is not a number"]),
    ],
)
def test_a_bad_line_of_birds_is_named(
    file: str, old: str, new: str, words: list[str], tmp_path: Path
) -> None:
    fgvc.write_cub(tmp_path)
    replace_once(tmp_path / f"{file}.txt", old, new)
    fails(LAYOUT, _small("cub"), tmp_path, *words)


def test_a_bad_file_of_birds_is_named(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path)
    fails(LAYOUT, _small("cub", 2), tmp_path, "image_class_labels.txt: 3 classes", "cub", "2 ")
    path = tmp_path / "train_test_split.txt"
    path.write_text(path.read_text().replace(" 0\n", " 1\n"))
    fails(LAYOUT, _small("cub"), tmp_path, "train_test_split.txt: all images are in one split")
    (tmp_path / "classes.txt").unlink()
    fails(LAYOUT, _small("cub"), tmp_path, "classes.txt: cannot be read")


# MATLAB files


def test_the_official_validation_split_of_flowers_is_taken(tmp_path: Path) -> None:
    fgvc.write_flowers(tmp_path)
    val = read(LAYOUT, _small("flowers"), tmp_path).val
    assert val is not None
    first = Path(str(val[0].source)), val[0].label  # 6 test, then 12 train, then val
    assert first == (tmp_path / "jpg" / "image_00019.jpg", 2)


def test_a_flower_without_a_label_is_named(tmp_path: Path) -> None:
    fgvc.write_flowers(tmp_path)
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[1, 2, 3]])})
    fails(LAYOUT, _small("flowers"), tmp_path, "setid.mat: trnid has image 7", "imagelabels.mat")


def test_lists_of_dogs_may_lie_in_a_subfolder(tmp_path: Path) -> None:
    written = fgvc.write_dogs(tmp_path, lists="lists")
    check(read(LAYOUT, _small("dogs"), tmp_path), written)


def test_images_unpacked_into_a_folder_of_the_same_name_are_found(tmp_path: Path) -> None:
    fgvc.write_dogs(tmp_path)
    (tmp_path / "Images").rename(tmp_path / "inner")
    (tmp_path / "images").mkdir()
    (tmp_path / "inner").rename(tmp_path / "images" / "Images")
    train = read(LAYOUT, _small("dogs"), tmp_path).train
    assert all(tmp_path / "images" / "Images" in Path(str(i.source)).parents for i in train)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"labels": [[1], [2]]}, "file_list is missing"),
        ({"file_list": ["a/b.jpg"]}, "labels is missing"),
        ({"file_list": [[1.0]], "labels": [[1]]}, "file_list does not consist of strings"),
        ({"file_list": ["a/b.jpg"], "labels": ["x"]}, "labels does not consist of numbers"),
        ({"file_list": ["a/b.jpg"], "labels": [[1.5]]}, "labels does not consist of integers"),
        ({"file_list": ["a/b.jpg"], "labels": [[np.nan]]}, "labels does not consist of integers"),
        ({"file_list": ["a/b.jpg"], "labels": np.empty((0, 0))}, "labels is empty"),
        ({"file_list": ["a/b.jpg"], "labels": [[4]]}, "labels has class 4"),
        ({"file_list": ["a/b.jpg"], "labels": [[0]]}, "labels has class 0"),
        ({"file_list": ["a/b.jpg"], "labels": [[1], [2]]}, "1 images, but 2 labels"),
        ({"file_list": ["../b.jpg"], "labels": [[1]]}, "'../b.jpg' leads out of"),
        ({"file_list": ["a.jpg", "a.jpg"], "labels": [[1, 2]]}, "lists an image twice"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM".ljust(400) + b"\x89HDF", "7.3"),
        (b"", "cannot be read"),
        (b"no MATLAB file", "cannot be read"),
        (b"\0" * 200, ""),
    ],
)
def test_a_bad_matlab_file_is_named(
    content: dict[str, Any] | bytes, words: str, tmp_path: Path
) -> None:
    fgvc.write_dogs(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / "train_list.mat").write_bytes(content)
    else:
        savemat(tmp_path / "train_list.mat", content)
    fails(LAYOUT, _small("dogs"), tmp_path, "train_list.mat: ", words)


@pytest.mark.parametrize(
    "name", ["dogs", *(pytest.param(each, marks=pytest.mark.slow) for each in ("flowers", "cars"))]
)
def test_a_truncated_or_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    writers = {
        "flowers": fgvc.write_flowers,
        "dogs": fgvc.write_dogs,
        "cars": fgvc.write_cars_annos,
    }
    writers[name](tmp_path, per_class=1)
    file = tmp_path / MATS[name]
    content = file.read_bytes()
    spoilt = [content[:length] for length in range(0, len(content), max(1, len(content) // 12))]
    for place in np.random.default_rng(0).integers(128, len(content), 20):
        spoilt.append(content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :])
    for each in spoilt:
        file.write_bytes(each)
        fails(LAYOUT, _small(name), tmp_path, file.name)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example writes all files
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
        fails(LAYOUT, _small(name), tmp_path)

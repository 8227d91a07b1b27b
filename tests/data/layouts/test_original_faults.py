"""Each of the authors' files, spoilt in one way; the error must name the file."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miniature import fgvc
from miniature.fgvc import SMALL, Written
from miniature.reading import Spoil, fails, filled, matlab, replaced
from pcvpt.data.layouts.original import LAYOUT

WRITERS: dict[str, Callable[[Path], Written]] = {
    "cub": fgvc.write_cub,
    "flowers": fgvc.write_flowers,
    "dogs": fgvc.write_dogs,
    "cars unlabelled": partial(fgvc.write_cars_devkit, labelled=False),
    "cars devkit of two classes": partial(fgvc.write_cars_devkit, classes=2),
    "cars annos": fgvc.write_cars_annos,
    "cars csv": fgvc.write_cars_csv,
    "cars csv of two classes": partial(fgvc.write_cars_csv, classes=2),
    "cars csv shared": partial(fgvc.write_cars_csv, images="images/{number:05}.jpg"),
}
MATS = {"flowers": "imagelabels.mat", "dogs": "train_list.mat", "cars annos": "cars_annos.mat"}


def _away(path: Path) -> None:
    path.rename(path.with_name("gone"))


def _all_train(file: Path) -> None:
    file.write_text(file.read_text().replace(" 0\n", " 1\n"))


IDS, FLAGS, NAMES = "image_class_labels.txt", "train_test_split.txt", "classes.txt"
LIST, ONE = "train_list.mat", ["a/b.jpg"]
FAULTS: list[tuple[str, str, Spoil, str]] = [
    ("cub", "images.txt", replaced("2 0", "2\n2 0"), "images.txt:2: '2' is one field"),
    ("cub", "images.txt", replaced("2 0", "1 0"), "images.txt:2: 1 is listed twice"),
    ("cub", "images.txt", replaced("2 0", "99 0"), f"{FLAGS}: no line for image 99"),
    ("cub", "images.txt", replaced("2 0", "2 ../0"), "images.txt: image 2: '../002"),
    ("cub", "images.txt", replaced("2 0", "2 /0"), "images.txt: image 2: .. leads out of"),
    ("cub", FLAGS, replaced("2 0", "2 2"), f"{FLAGS}:2: '2' is not 1"),
    ("cub", FLAGS, replaced("18 1\n", ""), f"{FLAGS}: no line for image 18"),
    ("cub", FLAGS, replaced("18 1\n", "18 1\n19 1"), "images.txt: no image 19"),
    ("cub", FLAGS, _all_train, f"{FLAGS}: all images are in one split"),
    ("cub", IDS, replaced("2 2", "2 two"), f"{IDS}:2: 'two' is not"),
    ("cub", IDS, replaced("2 2", "2 4"), f"{NAMES}: no name of class 4"),
    ("cub", NAMES, replaced("2 002", "4 002"), f"{NAMES}: no name of class 2"),
    ("cub", NAMES, replaced("2 002", "x 002"), f"{NAMES}: no name of class 2"),
    ("cub", NAMES, Path.unlink, f"{NAMES}: cannot be read"),
    ("flowers", "imagelabels.mat", matlab(labels=[[1, 2, 3]]), "setid.mat: trnid has image 7"),
    ("dogs", LIST, matlab(labels=[[1], [2]]), "file_list is missing"),
    ("dogs", LIST, matlab(file_list=ONE), "labels is missing"),
    ("dogs", LIST, matlab(file_list=[[1.0]], labels=[[1]]), "file_list does not consist of"),
    ("dogs", LIST, matlab(file_list=ONE, labels=["x"]), "labels does not consist of integers"),
    ("dogs", LIST, matlab(file_list=ONE, labels=[[1.5]]), "labels does not consist of integers"),
    ("dogs", LIST, matlab(file_list=ONE, labels=[[np.nan]]), "labels does not consist of integers"),
    ("dogs", LIST, matlab(file_list=ONE, labels=np.empty((0, 0))), "labels is empty"),
    ("dogs", LIST, matlab(file_list=ONE, labels=[[4]]), "labels has class 4"),
    ("dogs", LIST, matlab(file_list=ONE, labels=[[0]]), "labels has class 0"),
    ("dogs", LIST, matlab(file_list=ONE, labels=[[1], [2]]), "1 images, but 2 labels"),
    ("dogs", LIST, matlab(file_list=["../b.jpg"], labels=[[1]]), "'../b.jpg' leads out of"),
    ("dogs", LIST, matlab(file_list=["a", "a"], labels=[[1, 2]]), "lists an image twice"),
    ("dogs", LIST, filled(b"MATLAB 7.3".ljust(124) + b"\0\2IM".ljust(400) + b"\x89HDF"), "7.3"),
    ("dogs", LIST, filled(b""), "cannot be read"),
    ("dogs", LIST, filled(b"no MATLAB file"), "cannot be read"),
    ("dogs", LIST, filled(b"\0" * 200), ""),
    ("cars unlabelled", "readme", Path.touch, "cars_test_annos.mat: .. annos_withlabels.mat"),
    ("cars devkit of two classes", "readme", Path.touch, "cars_meta.mat: 2 class names .. 3"),
    ("cars annos", "car_ims", _away, "car_ims: no such folder"),
    ("cars csv", "train.csv", replaced(",image,", ",picture,"), "train.csv: the header .. picture"),
    ("cars csv", "test.csv", replaced(",Class", ",kind"), "test.csv: the header .. kind"),
    ("cars csv", "train.csv", replaced("3.jpg,39,3", "3.jpg,39"), "train.csv:4: 3 fields .. 4"),
    ("cars csv", "train.csv", replaced("39,3\n", "39,3.5\n"), "train.csv:4: label '3.5'"),
    ("cars csv", "train.csv", replaced("39,3\n", "39,-3\n"), "train.csv:4: label -3"),
    (
        "cars csv",
        "train.csv",
        replaced("00003.jpg", "00002.jpg"),
        "train.csv:4: .. 00002.jpg is listed twice",
    ),
    ("cars csv", "train.csv", replaced("00003.jpg", "../3.jpg"), "train.csv:4: '../3.jpg' leads"),
    ("cars csv", "test.csv", replaced("39,3\n", "39,9\n"), "test.csv: class 9 of"),
    ("cars csv of two classes", "readme", Path.touch, "train.csv: 2 classes .. cars .. 3 classes"),
    ("cars csv shared", "readme", Path.touch, "test.csv: .. 00001.jpg is in train.csv too"),
]


@pytest.mark.parametrize(("form", "file", "spoil", "words"), FAULTS)
def test_a_fault_is_named_with_its_file(
    form: str, file: str, spoil: Spoil, words: str, tmp_path: Path
) -> None:
    WRITERS[form](tmp_path)
    spoil(tmp_path / file)
    named = [file] if file == LIST else []
    fails(LAYOUT, SMALL[form.split()[0]], tmp_path, *named, *words.split(" .. "))


def test_another_number_of_classes_than_the_task_has_is_named(tmp_path: Path) -> None:
    fgvc.write_cub(tmp_path)
    fails(LAYOUT, replace(SMALL["cub"], num_classes=2), tmp_path, f"{IDS}: 3 classes", "cub", "2 ")


@pytest.mark.parametrize(
    "form",
    ["dogs", *(pytest.param(n, marks=pytest.mark.slow) for n in ("flowers", "cars annos"))],
)
def test_a_truncated_or_damaged_matlab_file_is_named(form: str, tmp_path: Path) -> None:
    WRITERS[form](tmp_path)
    file = tmp_path / MATS[form]
    content = file.read_bytes()
    spoilt = [content[:length] for length in range(0, len(content), max(1, len(content) // 12))]
    for place in np.random.default_rng(0).integers(128, len(content), 20):
        spoilt.append(content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :])
    for each in spoilt:
        file.write_bytes(each)
        fails(LAYOUT, SMALL[form.split()[0]], tmp_path, file.name)


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
    for name in "train.csv", "test.csv", "images.txt", FLAGS, IDS:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "images").mkdir(exist_ok=True)
    for name in "cars", "cub":
        fails(LAYOUT, SMALL[name], tmp_path)

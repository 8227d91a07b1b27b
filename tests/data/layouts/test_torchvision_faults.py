"""Each published file, spoilt in one way; the error must name the file."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from miniature import vtab
from miniature.reading import fails
from pcvpt.data.layouts.torchvision.layout import LAYOUT
from pcvpt.data.tasks.table import TASKS


def _write(name: str, root: Path) -> Path:
    folder = root / TASKS[name].name
    vtab.WRITERS[name](folder)
    return folder


def _h5(file: Path, name: str, values: Any) -> None:
    with h5py.File(file, "w") as opened:
        opened[name] = values


def _cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def _each(text: str) -> Callable[[Path], object]:
    """Return a function that writes ``text`` to every file of a folder."""
    return lambda folder: [file.write_text(text) for file in folder.iterdir()]


def _text(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text)


CIFAR = "cifar-100-python/{}"
DTD, PETS = "dtd/labels/val1.txt", "annotations/test.txt"
PCAM_X, PCAM_Y = (f"camelyonpatch_level_2_split_train_{part}.h5" for part in "xy")
DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
SCENES = "CLEVR_v1.0/scenes/CLEVR_{}_scenes.json"
KITTI, KITTI_LABELS = "raw/mapping/train_rand.txt", "raw/training/label_2"
NORB_INFO = vtab.NORB.format("01235", "testing", "info")
FAULTS: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("cifar100", CIFAR.format("test"), Path.unlink, "test: cannot be read"),
    ("cifar100", CIFAR.format("train"), _cut, "train: cannot be read"),
    ("cifar100", CIFAR.format("train"), lambda f: f.write_bytes(CODE), "train: .. print does not"),
    ("cifar100", CIFAR.format("meta"), _text(""), "meta: cannot be read"),
    ("cifar100", CIFAR.format("meta"), _text("N."), "meta: no dictionary"),
    ("cifar100", CIFAR.format("meta"), _text("}."), "meta: no names of 100"),
    ("cifar100", CIFAR.format("test"), _text("}."), "test: no images"),
    ("svhn", "train_32x32.mat", _cut, "train_32x32.mat: cannot be read"),
    ("svhn", "test_32x32.mat", Path.unlink, "test_32x32.mat: cannot be read"),
    ("svhn", "test_32x32.mat", lambda f: savemat(f, BAD_SVHN), "test_32x32.mat: no images"),
    ("dtd", DTD, Path.unlink, "val1.txt: cannot be read"),
    ("dtd", DTD, _text("\n"), "val1.txt: empty"),
    ("dtd", DTD, _text("x/y.jpg"), "val1.txt:1: class 'x'"),
    ("dtd", DTD, _text("banded/1.jpg\n" * 2), "val1.txt: .. banded/1.jpg does not exist"),
    ("flowers102", "setid.mat", _cut, "setid.mat: cannot be read"),
    ("flowers102", "imagelabels.mat", Path.unlink, "imagelabels.mat: cannot be read"),
    ("flowers102", "imagelabels.mat", lambda f: savemat(f, BAD_FLOWERS), "labels has class 103"),
    ("flowers102", "jpg/image_00001.jpg", Path.unlink, "setid.mat: .. image_00001.jpg"),
    ("pets", PETS, _text("pug_1 2 1 1\npug_1"), "test.txt:2: 'pug_1'"),
    ("pets", PETS, _text("pug_1 38 1 1"), "test.txt:1: class 38 .. 37"),
    ("pets", PETS, _text("pug_999 2 1 1"), "test.txt:1: .. pug_999.jpg does not exist"),
    ("eurosat", "2750/Forest", lambda f: f.rename(f.parent / ".x"), "2750: 9 classes .. 10"),
    ("patch_camelyon", PCAM_X, _cut, "train_x.h5: cannot be read"),
    ("patch_camelyon", PCAM_Y, Path.unlink, "train_y.h5: cannot be read"),
    ("patch_camelyon", PCAM_X, lambda f: _h5(f, "z", [0]), "train_x.h5: cannot be read"),
    ("patch_camelyon", PCAM_X, lambda f: _h5(f, "x", [0]), "train_x.h5: x is not an array"),
    ("patch_camelyon", PCAM_Y, lambda f: _h5(f, "y", [0]), "train_y.h5: 1 labels"),
    ("patch_camelyon", PCAM_Y, lambda f: _h5(f, "y", [2] * vtab.TRAIN), "train_y.h5: label 2"),
    ("clevr_count", SCENES.format("train"), _cut, "CLEVR_train_scenes.json: cannot be read"),
    ("clevr_dist", SCENES.format("val"), _text('{"scenes": []}'), "val_scenes.json: the scene of"),
    ("clevr_dist", SCENES.format("val"), lambda f: _rename(f, "pixel_coords"), "val_scenes.json"),
    ("kitti_dist", KITTI, _text("1,2,999"), "train_rand.txt: '999'"),
    ("kitti_dist", KITTI, Path.unlink, "train_rand.txt: cannot be read"),
    ("kitti_dist", KITTI, _text("1,2"), "mapping: 2 videos cannot be divided"),
    ("kitti_dist", KITTI_LABELS, _each("\nCar 0\n"), "txt:2: 2 fields .. 15"),
    ("kitti_dist", KITTI_LABELS, _each("Bus" + " 0" * 14), "txt:1: 'Bus'"),
    ("dsprites_loc", DSPRITES, _cut, "hdf5: cannot be read"),
    ("dsprites_ori", DSPRITES, lambda f: _latents(f, (4, 2)), "hdf5: not six classes"),
    ("dsprites_ori", DSPRITES, lambda f: _latents(f, (20, 6)), "hdf5: cannot be read"),
    ("smallnorb_ele", vtab.NORB.format("46789", "training", "dat"), _cut, "training-dat.mat: "),
    ("smallnorb_ele", NORB_INFO, Path.unlink, "testing-info.mat.gz: cannot be read"),
    ("smallnorb_ele", NORB_INFO, _text("long enough to be one"), "info.mat: .. not a matrix"),
]
CODE = pickle.dumps({"data": print})
BAD_SVHN = {"X": np.zeros(3), "y": np.zeros(2)}
BAD_FLOWERS = {"labels": np.full((1, 34), 103)}


def _latents(file: Path, shape: tuple[int, int]) -> None:
    _h5(file, "latents/classes", np.zeros(shape))


def _rename(file: Path, key: str) -> None:
    file.write_text(file.read_text().replace(key, "other"))


@pytest.mark.parametrize(("name", "file", "spoil", "words"), FAULTS)
def test_a_fault_is_named_with_its_file(
    name: str, file: str, spoil: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    spoil(_write(name, tmp_path) / file)
    fails(LAYOUT, vtab.small(TASKS[name]), tmp_path, *words.split(" .. "))


def test_a_class_with_too_few_images_for_caltech101_is_named(tmp_path: Path) -> None:
    vtab.write_caltech101(tmp_path / "caltech101")
    for number in range(1, 4):
        folder = tmp_path / "caltech101" / "101_ObjectCategories" / "ant"
        (folder / f"image_{number:04}.jpg").unlink()
    fails(LAYOUT, replace(TASKS["caltech101"], num_classes=3), tmp_path, "ant: 29 images", "30")


def test_a_part_without_images_is_named(tmp_path: Path) -> None:
    _write("cifar100", tmp_path)
    task = replace(TASKS["cifar100"], rules=("train", "train[:0]", "test"))
    fails(LAYOUT, task, tmp_path, "has 20 images", "train[:0]")

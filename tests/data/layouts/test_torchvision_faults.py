from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from miniature import vtab
from pcvpt.data.layouts.base import Reading
from pcvpt.data.layouts.torchvision import layout as torchvision
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError


def _write(name: str, root: Path) -> Path:
    folder = root / TASKS[name].name
    vtab.WRITERS[name](folder)
    return folder


def _read(task: Task, root: Path) -> Reading:
    folder = torchvision.find(task, root)
    assert folder is not None
    return torchvision.read(task, folder)


def _h5(file: Path, name: str, values: Any) -> None:
    with h5py.File(file, "w") as opened:
        opened[name] = values


def _cut(file: Path, kept: float = 0.5) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])


PCAM = "camelyonpatch_level_2_split_train_{}.h5"
DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
FAULTS: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("cifar100", "cifar-100-python/test", Path.unlink, "test: cannot be read"),
    ("cifar100", "cifar-100-python/train", _cut, "train: cannot be read"),
    ("cifar100", "cifar-100-python/meta", lambda f: f.write_bytes(b""), "meta: cannot be read"),
    ("cifar100", "cifar-100-python/meta", lambda f: f.write_bytes(b"N."), "meta: no dictionary"),
    ("cifar100", "cifar-100-python/meta", lambda f: f.write_bytes(b"}."), "meta: no names of 100"),
    ("cifar100", "cifar-100-python/test", lambda f: f.write_bytes(b"}."), "test: no images"),
    ("svhn", "train_32x32.mat", _cut, "train_32x32.mat: cannot be read"),
    ("svhn", "test_32x32.mat", Path.unlink, "test_32x32.mat: cannot be read"),
    (
        "svhn",
        "test_32x32.mat",
        lambda f: savemat(f, {"X": np.zeros(3), "y": np.zeros(2)}),
        "test_32x32.mat: no images",
    ),
    ("dtd", "dtd/labels/val1.txt", Path.unlink, "val1.txt: cannot be read"),
    ("dtd", "dtd/labels/val1.txt", lambda f: f.write_text("\n"), "val1.txt: empty"),
    ("dtd", "dtd/labels/val1.txt", lambda f: f.write_text("x/y.jpg"), "val1.txt:1: class 'x'"),
    (
        "dtd",
        "dtd/labels/val1.txt",
        lambda f: f.write_text("banded/1.jpg\nbanded/1.jpg"),
        "val1.txt:[12]: image .*banded/1.jpg does not exist",
    ),
    ("flowers102", "setid.mat", _cut, "setid.mat: cannot be read"),
    ("flowers102", "imagelabels.mat", Path.unlink, "imagelabels.mat: cannot be read"),
    (
        "flowers102",
        "imagelabels.mat",
        lambda f: savemat(f, {"labels": np.full((1, 34), 103)}),
        "setid.mat: image .* has no label in 1..102",
    ),
    ("flowers102", "jpg", lambda f: f.rename(f.parent / "images"), "image_.*jpg does not exist"),
    (
        "pets",
        "annotations/test.txt",
        lambda f: f.write_text("pug_1 2 1 1\npug_1"),
        "test.txt:2: 'pug_1' is not",
    ),
    (
        "pets",
        "annotations/test.txt",
        lambda f: f.write_text("pug_1 38 1 1"),
        "test.txt:1: class 38 is not in 1..37",
    ),
    (
        "pets",
        "annotations/test.txt",
        lambda f: f.write_text("pug_999 2 1 1"),
        "test.txt:1: image .*pug_999.jpg does not exist",
    ),
    ("eurosat", "2750/Forest", lambda f: f.rename(f.parent / ".x"), "2750: 9 classes, but .* 10"),
    ("patch_camelyon", PCAM.format("x"), _cut, "train_x.h5: cannot be read"),
    ("patch_camelyon", PCAM.format("y"), Path.unlink, "train_y.h5: cannot be read"),
    ("patch_camelyon", PCAM.format("x"), lambda f: _h5(f, "z", [0]), "train_x.h5: cannot be read"),
    ("patch_camelyon", PCAM.format("x"), lambda f: _h5(f, "x", [0]), "train_x.h5: x is no array"),
    ("patch_camelyon", PCAM.format("y"), lambda f: _h5(f, "y", [0]), "train_y.h5: 1 labels, but"),
    (
        "patch_camelyon",
        PCAM.format("y"),
        lambda f: _h5(f, "y", [2] * vtab.TRAIN),
        "train_y.h5: label 2 is not in 0..1",
    ),
    (
        "clevr_count",
        "CLEVR_v1.0/scenes/CLEVR_train_scenes.json",
        _cut,
        "CLEVR_train_scenes.json: no scenes",
    ),
    (
        "clevr_dist",
        "CLEVR_v1.0/scenes/CLEVR_val_scenes.json",
        lambda f: f.write_text('{"scenes": []}'),
        "CLEVR_val_scenes.json: no scene for .*png",
    ),
    (
        "clevr_dist",
        "CLEVR_v1.0/scenes/CLEVR_val_scenes.json",
        lambda f: f.write_text(f.read_text().replace("pixel_coords", "pixels")),
        "CLEVR_val_scenes.json: the scene of .*png is damaged",
    ),
    (
        "kitti_dist",
        "raw/mapping/train_rand.txt",
        lambda f: f.write_text("1,2,999"),
        "train_rand.txt: '999' is no line",
    ),
    ("kitti_dist", "raw/mapping/train_rand.txt", Path.unlink, "train_rand.txt: cannot be read"),
    (
        "kitti_dist",
        "raw/mapping/train_rand.txt",
        lambda f: f.write_text("1,2"),
        "mapping: 2 videos cannot be divided",
    ),
    (
        "kitti_dist",
        "raw/training/label_2",
        lambda f: [each.write_text("\nCar 0\n") for each in f.iterdir()],
        "txt:2: 2 fields, not 15",
    ),
    (
        "kitti_dist",
        "raw/training/label_2",
        lambda f: [each.write_text("Bus" + " 0" * 14) for each in f.iterdir()],
        "txt:1: 'Bus' is no type",
    ),
    ("dsprites_loc", DSPRITES, _cut, "hdf5: cannot be read"),
    (
        "dsprites_ori",
        DSPRITES,
        lambda f: _h5(f, "latents/classes", np.zeros((4, 2))),
        "hdf5: not six classes",
    ),
    (
        "dsprites_ori",
        DSPRITES,
        lambda f: _h5(f, "latents/classes", np.zeros((20, 6))),
        "hdf5: cannot be read",
    ),
    (
        "smallnorb_ele",
        vtab.NORB.format("46789", "training", "dat"),
        _cut,
        "training-dat.mat: cannot be read",
    ),
    (
        "smallnorb_ele",
        vtab.NORB.format("01235", "testing", "info"),
        Path.unlink,
        "testing-info.mat.gz: cannot be read",
    ),
    (
        "smallnorb_ele",
        vtab.NORB.format("01235", "testing", "info"),
        lambda f: f.write_bytes(b"no matrix, but long enough to be one"),
        "testing-info.mat: cannot be read .*not a matrix",
    ),
]


@pytest.mark.parametrize(("name", "file", "spoil", "message"), FAULTS)
def test_a_fault_is_named_with_its_file(
    name: str, file: str, spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    spoil(_write(name, tmp_path) / file)
    with pytest.raises(UsageError, match=message):
        _read(vtab.small(TASKS[name]), tmp_path)


def test_a_class_with_too_few_images_for_caltech101_is_named(tmp_path: Path) -> None:
    vtab.write_caltech101(tmp_path / "caltech101")
    for number in range(1, 4):
        folder = tmp_path / "caltech101" / "101_ObjectCategories" / "ant"
        (folder / f"image_{number:04}.jpg").unlink()
    with pytest.raises(UsageError, match=r"ant: 29 images, but 30 are for training"):
        _read(replace(TASKS["caltech101"], num_classes=3), tmp_path)


def test_a_part_without_images_is_named(tmp_path: Path) -> None:
    _write("cifar100", tmp_path)
    task = replace(TASKS["cifar100"], rules=("train", "train[:0]", "test"))
    with pytest.raises(UsageError, match=r"has 20 images, and none of them is in train\[:0\]"):
        _read(task, tmp_path)

"""Each published file, spoilt in one way; the error must name the file."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from miniature import vtab
from miniature.reading import Spoil, cut, fails, filled, matlab, replaced
from pcvpt.data.layouts.torchvision import LAYOUT
from pcvpt.data.tasks.table import TASKS


def _h5(name: str, values: Any) -> Spoil:
    return lambda file: h5py.File(file, "w").create_dataset(name, data=values)


def _each(text: str) -> Spoil:
    return lambda folder: [file.write_text(text) for file in folder.iterdir()]


CIFAR, CODE = "cifar-100-python/{}", pickle.dumps({"data": print})
DTD, PETS = "dtd/labels/val1.txt", "annotations/test.txt"
PCAM_X, PCAM_Y = (f"camelyonpatch_level_2_split_train_{part}.h5" for part in "xy")
DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
SCENES = "CLEVR_v1.0/scenes/CLEVR_{}_scenes.json"
KITTI, KITTI_LABELS = "raw/mapping/train_rand.txt", "raw/training/label_2"
NORB_INFO = vtab.NORB.format("01235", "testing", "info")
FAULTS: list[tuple[str, str, Spoil, str]] = [
    ("cifar100", CIFAR.format("test"), Path.unlink, "test: cannot be read"),
    ("cifar100", CIFAR.format("train"), cut, "train: cannot be read"),
    ("cifar100", CIFAR.format("train"), filled(CODE), "train: .. print does not"),
    ("cifar100", CIFAR.format("meta"), filled(b""), "meta: cannot be read"),
    ("cifar100", CIFAR.format("meta"), filled(b"N."), "meta: no dictionary"),
    ("cifar100", CIFAR.format("meta"), filled(b"}."), "meta: no names of 100"),
    ("cifar100", CIFAR.format("test"), filled(b"}."), "test: no images"),
    ("svhn", "train_32x32.mat", cut, "train_32x32.mat: cannot be read"),
    ("svhn", "test_32x32.mat", Path.unlink, "test_32x32.mat: cannot be read"),
    ("svhn", "test_32x32.mat", matlab(X=np.zeros(3), y=np.zeros(2)), "test_32x32.mat: no images"),
    ("dtd", DTD, Path.unlink, "val1.txt: cannot be read"),
    ("dtd", DTD, filled(b"\n"), "val1.txt: empty"),
    ("dtd", DTD, filled(b"x/y.jpg"), "val1.txt:1: class 'x'"),
    ("dtd", DTD, filled(b"banded/1.jpg\n" * 2), "val1.txt: 1 of 1 listed images .. banded/1.jpg"),
    ("flowers102", "setid.mat", cut, "setid.mat: cannot be read"),
    ("flowers102", "imagelabels.mat", Path.unlink, "imagelabels.mat: cannot be read"),
    ("flowers102", "imagelabels.mat", matlab(labels=np.full((1, 34), 103)), "labels has class 103"),
    ("flowers102", "jpg/image_00001.jpg", Path.unlink, "setid.mat: .. image_00001.jpg"),
    ("pets", PETS, filled(b"pug_1 2 1 1\npug_1"), "test.txt:2: 'pug_1'"),
    ("pets", PETS, filled(b"pug_2 38 1 1"), "pug_2.jpg has the label 37, but there are 37"),
    ("pets", PETS, filled(b"pug_999 2 1 1"), "test.txt: 1 of 1 listed .. pug_999.jpg"),
    ("eurosat", "2750/Forest", lambda f: f.rename(f.parent / ".x"), "2750: 9 classes .. 10"),
    ("patch_camelyon", PCAM_X, cut, "train_x.h5: cannot be read"),
    ("patch_camelyon", PCAM_Y, Path.unlink, "train_y.h5: cannot be read"),
    ("patch_camelyon", PCAM_X, _h5("z", [0]), "train_x.h5: cannot be read"),
    ("patch_camelyon", PCAM_X, _h5("x", [0]), "train_x.h5: x is not an array"),
    ("patch_camelyon", PCAM_Y, _h5("y", [0]), "train_y.h5: 1 labels"),
    ("patch_camelyon", PCAM_Y, _h5("y", [2] * vtab.TRAIN), "train_x.h5[ .. has the label 2"),
    ("clevr_count", SCENES.format("train"), cut, "CLEVR_train_scenes.json: cannot be read"),
    ("clevr_dist", SCENES.format("val"), filled(b'{"scenes": []}'), "val_scenes.json: the scene"),
    ("clevr_dist", SCENES.format("val"), replaced("pixel_coords", "other"), "val_scenes.json"),
    ("kitti_dist", KITTI, filled(b"1,2,999"), "train_rand.txt: '999'"),
    ("kitti_dist", KITTI, Path.unlink, "train_rand.txt: cannot be read"),
    ("kitti_dist", KITTI, filled(b"1,2"), "mapping: 2 videos cannot be divided"),
    ("kitti_dist", KITTI_LABELS, _each("\nCar 0\n"), "txt: line 2 is not"),
    ("kitti_dist", KITTI_LABELS, _each("Bus" + " 0" * 14), "txt: line 1 is not"),
    ("dsprites_loc", DSPRITES, cut, "hdf5: cannot be read"),
    ("dsprites_ori", DSPRITES, _h5("latents/classes", np.zeros((4, 2))), "hdf5: not six classes"),
    ("dsprites_ori", DSPRITES, _h5("latents/classes", np.zeros((20, 6))), "hdf5: cannot be read"),
    ("smallnorb_ele", vtab.NORB.format("46789", "training", "dat"), cut, "training-dat.mat: "),
    ("smallnorb_ele", NORB_INFO, Path.unlink, "testing-info.mat.gz: cannot be read"),
    ("smallnorb_ele", NORB_INFO, filled(b"long enough to be one"), "info.mat: .. not a matrix"),
]


@pytest.mark.parametrize(("name", "file", "spoil", "words"), FAULTS)
def test_a_fault_is_named_with_its_file(
    name: str, file: str, spoil: Spoil, words: str, tmp_path: Path
) -> None:
    spoil(vtab.write(name, tmp_path) / file)
    fails(LAYOUT, vtab.small(TASKS[name]), tmp_path, *words.split(" .. "))


def test_a_class_with_too_few_images_for_caltech101_is_named(tmp_path: Path) -> None:
    vtab.write_caltech101(tmp_path / "caltech101")
    ants = tmp_path / "caltech101" / "101_ObjectCategories" / "ant"
    for file in ants.glob("image_000[1-3].jpg"):
        file.unlink()
    fails(LAYOUT, replace(TASKS["caltech101"], num_classes=3), tmp_path, "ant: 29 images", "30")


def test_a_part_without_images_is_named(tmp_path: Path) -> None:
    vtab.write("cifar100", tmp_path)
    task = replace(TASKS["cifar100"], rules=("train", "train[:0]", "test"))
    fails(LAYOUT, task, tmp_path, "has 20 images", "train[:0]")

"""Where the data of the 24 tasks come from.

``archives.csv`` has a row for each file on the web. Addresses, sizes and SHA-256 are those of
TensorFlow Datasets 4.9 (Apache-2.0), MD5 and the folders' structure those of torchvision
(BSD-3-Clause); tests compare the rows with both packages.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Archive:
    """A file on the web, and the place of its content."""

    url: str
    checksum: str  # SHA-256 in hexadecimal, or MD5 where only that is published
    size: int | None = None  # in bytes, where it is published
    into: str = "."  # folder below the root that the content goes to
    member: str = ""  # what to unpack; if it is an archive, its content. Empty means everything

    @property
    def filename(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2].partition("?")[0]


@dataclass(frozen=True)
class Source:
    """The way to get a data set. Steps and note have ``{root}`` for the root."""

    by: Literal["download", "tfds", "hand"]  # hand: the user is told what to do
    folder: str = ""  # of the data set, below the root; empty for tfds, which names it
    # What a download must leave in the folder; for tfds, what the user must put into manual/<task>.
    required: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    steps: tuple[str, ...] = ()  # what the user has to do
    note: str = ""  # what the user should know


def _read_archives() -> dict[str, tuple[Archive, ...]]:
    """Return the archives by the folder of their data set."""
    archives: dict[str, tuple[Archive, ...]] = {}
    with Path(__file__).with_name("archives.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            folder, size = row["folder"], int(row["size"]) if row["size"] else None
            into = row["into"] or folder
            archive = Archive(row["url"], row["checksum"], size, into, row["member"])
            archives[folder] = (*archives.get(folder, ()), archive)
    return archives


_ARCHIVES = _read_archives()


def _download(folder: str, *required: str, note: str = "") -> Source:
    return Source("download", folder, required, _ARCHIVES[folder], note=note)


def _download_packed(folder: str) -> Source:
    """Return a data set whose files are packed one by one."""
    return _download(folder, *(each.filename.removesuffix(".gz") for each in _ARCHIVES[folder]))


_BIRDS = ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_FLOWERS = _download("flowers-102", "jpg", "setid.mat", "imagelabels.mat")
_CLEVR = _download("clevr", "CLEVR_v1.0/images/train", "CLEVR_v1.0/images/val", "CLEVR_v1.0/scenes")
_DSPRITES = _download_packed("dsprites")
_NORB = _download_packed("smallnorb")

SOURCES = {
    "cub": _download("CUB_200_2011", *_BIRDS),
    "nabirds": Source(
        "hand",
        "nabirds",
        steps=(
            "Open https://dl.allaboutbirds.org/nabirds, accept the terms of use in the form and "
            "download nabirds.tar.gz (nobody publishes a checksum)",
            "Unpack it (tar -xzf) in {root}, so that {root}/nabirds/images.txt exists",
        ),
    ),
    "flowers": _FLOWERS,
    "dogs": _download(
        "stanford-dogs",
        "Images",
        "lists/train_list.mat",
        "lists/test_list.mat",
        note="The images are ImageNet's, whose terms of access apply: non-commercial research.",
    ),
    "cars": Source(
        "hand",
        "stanford_cars",
        steps=(
            "The authors' host is gone. torchvision's documentation names a copy: log in to "
            "Kaggle, open https://www.kaggle.com/datasets/rickyyyyyyy/torchvision-stanford-cars, "
            "read its terms and download it (nobody publishes a checksum of the whole)",
            "Unpack it, so that {root}/stanford_cars holds the folders cars_train (8,144 images), "
            "cars_test (8,041 images) and devkit (with cars_train_annos.mat and cars_meta.mat) "
            "and the file cars_test_annos_withlabels.mat; where a copy has cars_train/cars_train, "
            "move the images up by one folder",
            "If the copy has no cars_test_annos_withlabels.mat (cars_test_annos.mat is not enough: "
            "it has no labels), look for it in https://github.com/pytorch/vision/issues/7545; the "
            "authors' own has the SHA-256 "
            "790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
        ),
    ),
    "cifar100": _download("cifar-100-python", "train", "test", "meta"),
    "caltech101": _download("caltech101", "101_ObjectCategories/BACKGROUND_Google"),
    "dtd": _download("dtd", "dtd/images", "dtd/labels"),
    "flowers102": _FLOWERS,
    "pets": _download(
        "oxford-iiit-pet", "images", "annotations/trainval.txt", "annotations/test.txt"
    ),
    "svhn": _download_packed("svhn"),
    "sun397": _download(
        "SUN397",
        "a/abbey",
        "ClassName.txt",
        note="The authors' host has answered 404 since 2025 "
        "(https://github.com/pytorch/vision/issues/9348), so it may take a copy from elsewhere; "
        "the published checksum tells whether it is the same.",
    ),
    # No MD5 of these: torchvision and the authors' README exchange those of valid and test.
    "patch_camelyon": _download_packed("pcam"),
    "eurosat": _download("eurosat", "2750/AnnualCrop"),
    "resisc45": _download(
        "resisc45",
        "NWPU-RESISC45/airplane",
        note="The authors offer a RAR archive on OneDrive "
        "(https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs); this is the ZIP copy that TorchGeo "
        "fetches, with the checksum that TorchGeo publishes. To use the authors' own, unpack it "
        "so that {root}/resisc45/NWPU-RESISC45/airplane exists.",
    ),
    "diabetic_retinopathy": Source(
        "tfds",
        required=("train", "test", "sample", "trainLabels.csv"),
        steps=(
            "Log in to Kaggle, open "
            "https://www.kaggle.com/c/diabetic-retinopathy-detection/data, accept the rules of "
            "the competition and download all files, about 90 GB (nobody publishes checksums): "
            "kaggle competitions download -c diabetic-retinopathy-detection",
            "Join the parts and unpack them: cat train.zip.0* > train.zip, cat test.zip.0* > "
            "test.zip, and unzip both, sample.zip and trainLabels.csv.zip",
            "Put the folders train (35,126 images), test (53,576 images) and sample (10 images) "
            "and the file trainLabels.csv into {root}/manual/diabetic_retinopathy",
            "Install what prepares them: pip install 'pcvpt[tfds]' tensorflow opencv-python",
        ),
    ),
    "clevr_count": _CLEVR,
    "clevr_dist": _CLEVR,
    "dmlab": Source("tfds", note="TFDS downloads and checks dmlab.tar.gz, 3,017,022,789 bytes."),
    # Of the images only those in training are unpacked, the half with labels.
    "kitti_dist": _download(
        "Kitti",
        "raw/training/image_2",
        "raw/training/label_2",
        "raw/devkit/mapping/train_mapping.txt",
    ),
    "dsprites_loc": _DSPRITES,
    "dsprites_ori": _DSPRITES,
    "smallnorb_azi": _NORB,
    "smallnorb_ele": _NORB,
}
"""The sources by the name of the task; tasks of the same data set share one."""

WITHOUT_TENSORFLOW = frozenset({"dsprites", "kitti", "patch_camelyon"})
"""TFDS's builders that prepare their data without TensorFlow; the others read files with it."""

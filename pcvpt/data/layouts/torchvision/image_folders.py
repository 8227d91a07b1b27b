"""Sets that are folders of image files: DTD, Flowers, Pets, SUN397, EuroSAT, RESISC45, Caltech."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from pcvpt.data.layouts.torchvision.splits import (
    Raw,
    RawSplit,
    class_map,
    existing,
    folders_in,
    names_in,
    read_lines,
    split_of_items,
)
from pcvpt.data.splits import Item
from pcvpt.errors import UsageError

_CALTECH_TRAIN = 30  # images of each class
_CALTECH_SEED = 1234
_SUN397_UNREADABLE = {
    "/c/church/outdoor/sun_bhenjvsvrtumjuri.jpg",
    "/t/track/outdoor/sun_aophkoiosslinihb.jpg",
}


def dtd(folder: Path, num_classes: int) -> Raw:
    """Read ``images/<class>/<file>`` by the first of the ten divisions in ``labels``."""
    labels = class_map(folders_in(folder / "images"), num_classes, folder / "images")
    splits = {}
    for name, file in ("train", "train1"), ("validation", "val1"), ("test", "test1"):
        lists = folder / "labels" / f"{file}.txt"
        splits[name] = _listed(read_lines(lists), labels, folder / "images", lists)
    return Raw(splits, tuple(labels))


def flowers102(folder: Path, num_classes: int) -> Raw:
    """Read ``jpg/image_00001.jpg`` and so on by ``setid.mat`` and ``imagelabels.mat``."""
    labels = _matrix(folder / "imagelabels.mat", "labels")

    def split(part: str) -> RawSplit:
        file = folder / "setid.mat"
        numbers = _matrix(file, part)

        def item(position: int) -> Item:
            number = int(numbers[position])
            if not 1 <= number <= len(labels) or not 1 <= labels[number - 1] <= num_classes:
                raise UsageError(
                    f"{file}: image {number} of {part} has no label in 1..{num_classes} in "
                    "imagelabels.mat; get the data set anew"
                )
            path = existing(folder / "jpg" / f"image_{number:05d}.jpg", f"{file}, {part}")
            return Item(path, int(labels[number - 1]) - 1)

        return split_of_items([f"image_{number:05d}.jpg" for number in numbers], item)

    return Raw({"train": split("trnid"), "validation": split("valid"), "test": split("tstid")})


def pets(folder: Path, num_classes: int) -> Raw:
    """Read ``images/<name>.jpg`` by ``annotations/trainval.txt`` and ``test.txt``."""
    names: dict[int, str] = {}

    def split(file: Path) -> RawSplit:
        rows = []
        for number, line in enumerate(read_lines(file), start=1):
            fields = line.split()
            if len(fields) != 4 or not fields[1].isdecimal():
                raise UsageError(
                    f"{file}:{number}: {line!r} is not 'name class species breed'; "
                    "get the data set anew"
                )
            name, label = fields[0], int(fields[1]) - 1
            if not 0 <= label < num_classes:
                raise UsageError(
                    f"{file}:{number}: class {fields[1]} is not in 1..{num_classes}; "
                    "get the data set anew"
                )
            names.setdefault(label, name.rpartition("_")[0])
            rows.append((f"{name}.jpg", label))

        def item(position: int) -> Item:
            name, label = rows[position]
            return Item(existing(folder / "images" / name, f"{file}:{position + 1}"), label)

        return split_of_items([name for name, _ in rows], item)

    lists = folder / "annotations"
    splits = {"train": split(lists / "trainval.txt"), "test": split(lists / "test.txt")}
    return Raw(
        splits,
        tuple(names.get(label, str(label)) for label in range(num_classes)),
        ("TFDS 4 re-encodes 12 of the images as JPEG; here they are as published",),
    )


def sun397(folder: Path, num_classes: int) -> Raw:
    """Read ``a/abbey/<file>`` and so on by the division that TFDS brings along.

    Raises:
        UsageError: also if tensorflow_datasets, which holds the lists, is not installed.
    """
    lists = _tfds_folder(folder) / "image_classification"
    files = {
        split: lists / f"sun397_tfds_{part}.txt"
        for split, part in (("train", "tr"), ("validation", "va"), ("test", "te"))
    }
    lines = {split: read_lines(file) for split, file in files.items()}
    classes = [line.rpartition("/")[0] for listed in lines.values() for line in listed]
    labels = class_map(classes, num_classes, lists)
    return Raw(
        {split: _listed(lines[split], labels, folder, files[split]) for split in files},
        tuple(labels),
        ("TFDS shrinks images to 120,000 pixels and saves them as JPEG; here they are whole",),
    )


def class_folders(folder: Path, num_classes: int) -> Raw:
    """Read ``<class>/<file>`` of EuroSAT and RESISC45, which are one split, ``train``."""
    labels = class_map(folders_in(folder), num_classes, folder)
    images = [(name, file) for name in labels for file in names_in(folder / name, ".jpg")]
    keys = [f"{name}_{file}" for name, file in images]

    def item(position: int) -> Item:
        name, file = images[position]
        return Item(folder / name / file, labels[name])

    return Raw({"train": split_of_items(keys, item)}, tuple(labels))


def caltech101(folder: Path, num_classes: int) -> Raw:
    """Read ``<class>/<file>``, 30 images of each class, the background included, into train."""
    folders = folders_in(folder)
    labels = class_map([name.lower() for name in folders], num_classes, folder)
    draw = np.random.RandomState(_CALTECH_SEED)
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for name in folders:
        files = names_in(folder / name, ".jpg")
        if len(files) < _CALTECH_TRAIN:
            raise UsageError(
                f"{folder / name}: {len(files)} images, but {_CALTECH_TRAIN} are for training; "
                "get the data set anew"
            )
        chosen = set(draw.choice(files, _CALTECH_TRAIN, replace=False).tolist())
        for file in files:
            rows["train" if file in chosen else "test"].append((name, file))

    def split(images: list[tuple[str, str]]) -> RawSplit:
        def item(position: int) -> Item:
            name, file = images[position]
            return Item(folder / name / file, labels[name.lower()])

        return split_of_items([f"{name}/{file}" for name, file in images], item)

    return Raw(
        {part: split(images) for part, images in rows.items()},
        tuple(labels),
        (
            "TFDS draws the training images from a listing in whatever order the disk gave it; "
            "here it is sorted, so that train and test are not those of the published results",
        ),
    )


def _listed(lines: Sequence[str], labels: dict[str, int], images: Path, lists: Path) -> RawSplit:
    """Return a split whose keys are paths below ``images``, in folders named by class."""
    numbers = [number for number, line in enumerate(lines) if line not in _SUN397_UNREADABLE]

    def item(position: int) -> Item:
        number = numbers[position]
        key, where = lines[number], f"{lists}:{number + 1}"
        name = key.rpartition("/")[0]
        if name not in labels:
            raise UsageError(f"{where}: class {name!r} is unknown; get the data set anew")
        return Item(existing(images / key.lstrip("/"), where), labels[name])

    return split_of_items([lines[number] for number in numbers], item)


def _matrix(file: Path, name: str) -> Any:
    """Return a vector of integers in a MATLAB file."""
    try:
        return loadmat(file)[name].reshape(-1).astype(np.int64)
    except (OSError, ValueError, KeyError, NotImplementedError, MatReadError) as error:
        raise UsageError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); get the data set anew"
        ) from error


def _tfds_folder(folder: Path) -> Path:
    spec = find_spec("tensorflow_datasets")
    if spec is None or spec.origin is None:
        raise UsageError(
            f"{folder}: which images of SUN397 are for training is known to tensorflow_datasets "
            "alone; pip install 'pcvpt[tfds]'"
        )
    return Path(spec.origin).parent

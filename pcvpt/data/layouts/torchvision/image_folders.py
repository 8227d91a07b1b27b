"""Data sets of image files: DTD, Flowers, Pets, SUN397, EuroSAT, RESISC45, Caltech."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from pcvpt.data.image_files import names_in
from pcvpt.data.layouts.original import flowers
from pcvpt.data.layouts.torchvision.source import SourceData, SourceSplit, labels_by_name, listed
from pcvpt.data.readers.listed_images import read_lines
from pcvpt.data.splits import Item
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError

_CALTECH_TRAIN = 30  # images of each class
_CALTECH_SEED = 1234
_SUN397_UNREADABLE = {
    "/c/church/outdoor/sun_bhenjvsvrtumjuri.jpg",
    "/t/track/outdoor/sun_aophkoiosslinihb.jpg",
}


def dtd(folder: Path, task: Task) -> SourceData:
    """Read ``images/<class>/<file>`` by the first of the ten divisions in ``labels``."""
    images = folder / "images"
    labels = labels_by_name(names_in(images), task, images)
    files = {"train": "train1.txt", "validation": "val1.txt", "test": "test1.txt"}
    splits = {
        split: _listed(folder / "labels" / name, labels, images) for split, name in files.items()
    }
    return SourceData(splits, tuple(labels))


def flowers102(folder: Path, task: Task) -> SourceData:
    """Read the files of Oxford Flowers, see ``original/flowers.py``; TFDS numbers the classes."""
    official = flowers.read(task, folder)
    parts = {"train": official.train, "validation": official.val or (), "test": official.test}
    splits = {
        name: listed(folder, {Path(str(item.source)).name: item for item in items})
        for name, items in parts.items()
    }
    return SourceData(splits)


def pets(folder: Path, task: Task) -> SourceData:
    """Read ``images/<name>.jpg`` by ``annotations/trainval.txt`` and ``test.txt``."""
    names: dict[int, str] = {}

    def split(file: Path) -> SourceSplit:
        items = {}
        for number, line in enumerate(read_lines(file), start=1):
            fields = line.split()
            if len(fields) != 4 or not fields[1].isdecimal():
                raise UsageError(
                    f"{file}:{number}: {line!r} is not 'name class species breed'; "
                    "get the data set again"
                )
            image, label = f"{fields[0]}.jpg", int(fields[1]) - 1
            items[image] = Item(folder / "images" / image, label)
            names.setdefault(label, fields[0].rpartition("_")[0])
        return listed(file, items)

    lists = folder / "annotations"
    splits = {"train": split(lists / "trainval.txt"), "test": split(lists / "test.txt")}
    return SourceData(
        splits,
        tuple(names.get(label, str(label)) for label in range(task.num_classes)),
        ("TFDS 4 re-encodes 12 of the images as JPEG; here they are as published",),
    )


def sun397(folder: Path, task: Task) -> SourceData:
    """Read ``a/abbey/<file>`` and so on by the division that TFDS brings along."""
    tfds = find_spec("tensorflow_datasets")
    if tfds is None or tfds.origin is None:
        raise UsageError(
            f"{folder}: only tensorflow_datasets has the list of SUN397's training images; "
            "pip install 'pcvpt[tfds]'"
        )
    lists = Path(tfds.origin).parent / "image_classification"
    parts = {"train": "tr", "validation": "va", "test": "te"}
    files = {split: lists / f"sun397_tfds_{part}.txt" for split, part in parts.items()}
    classes = [line.rpartition("/")[0] for file in files.values() for line in read_lines(file)]
    labels = labels_by_name(classes, task, lists)
    return SourceData(
        {split: _listed(file, labels, folder) for split, file in files.items()},
        tuple(labels),
        ("TFDS shrinks images to 120,000 pixels and saves JPEG; here they have their full size",),
    )


def class_folders(folder: Path, task: Task) -> SourceData:
    """Read ``<class>/<file>`` of EuroSAT and RESISC45, which are one split, ``train``."""
    labels = labels_by_name(names_in(folder), task, folder)
    items = {
        f"{name}_{file}": Item(folder / name / file, label)
        for name, label in labels.items()
        for file in names_in(folder / name, ".jpg")
    }
    return SourceData({"train": listed(folder, items)}, tuple(labels))


def caltech101(folder: Path, task: Task) -> SourceData:
    """Read ``<class>/<file>``; train has 30 images of each class, the background included."""
    folders = names_in(folder)
    labels = labels_by_name([name.lower() for name in folders], task, folder)
    draw = np.random.RandomState(_CALTECH_SEED)
    items: dict[str, dict[str, Item]] = {"train": {}, "test": {}}
    for name in folders:
        files = names_in(folder / name, ".jpg")
        if len(files) < _CALTECH_TRAIN:
            raise UsageError(
                f"{folder / name}: {len(files)} images, but {_CALTECH_TRAIN} are for training; "
                "get the data set again"
            )
        chosen = set(draw.choice(files, _CALTECH_TRAIN, replace=False).tolist())
        for file in files:
            item = Item(folder / name / file, labels[name.lower()])
            items["train" if file in chosen else "test"][f"{name}/{file}"] = item
    return SourceData(
        {split: listed(folder, part) for split, part in items.items()},
        tuple(labels),
        (
            "TFDS draws the training images from a listing in the order of the disk; here the "
            "listing is sorted, so that train and test are not those of the published results",
        ),
    )


def _listed(file: Path, labels: dict[str, int], images: Path) -> SourceSplit:
    """Return a split whose keys are paths below ``images``, in folders named after classes."""
    items = {}
    for number, key in enumerate(read_lines(file), start=1):
        name = key.rpartition("/")[0]
        if name not in labels:
            raise UsageError(f"{file}:{number}: class {name!r} is unknown; get the data set again")
        if key not in _SUN397_UNREADABLE:
            items[key] = Item(images / key.lstrip("/"), labels[name])
    return listed(file, items)

"""Data sets that are arrays in a file: CIFAR-100, SVHN, PatchCamelyon, dSprites, Small NORB."""

import gzip
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcvpt.data.image_files import named_errors
from pcvpt.data.layouts.mat import MatFile
from pcvpt.data.layouts.torchvision.hdf5 import HDF5Images, read_array, read_binary_images
from pcvpt.data.layouts.torchvision.source import SourceData, SourceSplit, from_arrays, one_by_one
from pcvpt.data.splits import Item, Record
from pcvpt.data.tasks import label_rules
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError

DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
_NORB_TYPES = {507333717: "u1", 507333716: "<i4"}  # by the first number of a file of Small NORB
_NORB_FILES = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training-{}.mat",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing-{}.mat",
}
_PICKLED = {  # all that a pickled dict of arrays, numbers and strings needs
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def cifar100(folder: Path, task: Task) -> SourceData:
    """Read the pickles ``train``, ``test`` and ``meta``.

    TFDS reads the binary edition; both list the images in the same order.
    """
    meta = folder / "meta"
    names = _read_pickle(meta).get("fine_label_names")
    if not isinstance(names, list) or len(names) != task.num_classes:
        raise UsageError(f"{meta}: no names of {task.num_classes} classes; get the data set again")

    def split(file: Path) -> SourceSplit:
        content = _read_pickle(file)
        pixels: Any = content.get("data")
        labels = content.get("fine_labels")
        valid = isinstance(pixels, np.ndarray) and pixels.ndim == 2 and pixels.shape[1] == 3072
        if not valid or not isinstance(labels, list) or len(labels) != len(pixels):
            raise UsageError(f"{file}: no images with labels in it; get the data set again")
        return from_arrays(file, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)

    splits = {name: split(folder / name) for name in ("train", "test")}
    return SourceData(splits, tuple(map(str, names)))


def svhn(folder: Path, task: Task) -> SourceData:
    """Read ``train_32x32.mat`` and ``test_32x32.mat``; the label of a zero is 10 there."""

    def split(file: Path) -> SourceSplit:
        content = MatFile(file)
        pixels, labels = content.array("X"), content.integers("y")
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != len(labels):
            raise UsageError(f"{file}: no images with labels in it; get it again")
        return from_arrays(file, np.moveaxis(pixels, -1, 0), [label % 10 for label in labels])

    return SourceData({name: split(folder / f"{name}_32x32.mat") for name in ("train", "test")})


def patch_camelyon(folder: Path, task: Task) -> SourceData:
    """Read ``camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5``."""

    def split(part: str) -> SourceSplit:
        stem = f"camelyonpatch_level_2_split_{part}"
        images = HDF5Images(folder / f"{stem}_x.h5", "x")
        file = folder / f"{stem}_y.h5"
        labels = read_array(file, "y").reshape(-1)
        if len(labels) != len(images):
            raise UsageError(
                f"{file}: {len(labels)} labels, but {len(images)} images in {images.path.name}; "
                "get both again"
            )

        def item(position: int) -> Item:
            record = Record(images, position, f"{images.path}[{position}]")
            return Item(record, int(labels[position]))

        return one_by_one(file, [f"{part}_{number}" for number in range(len(labels))], item)

    parts = {"train": "train", "validation": "valid", "test": "test"}
    return SourceData({name: split(part) for name, part in parts.items()})


def dsprites(folder: Path, task: Task) -> SourceData:
    """Read the HDF5 edition; its pixels are 0 and 1.

    It is compressed in blocks of thousands of images, so that the images used are read from it at
    once. They are kept in memory, eight pixels per byte.
    """
    file = folder / DSPRITES
    stored = HDF5Images(file, "imgs")
    classes = read_array(file, "latents/classes")
    if classes.shape[1:] != (6,) or len(classes) != len(stored):
        raise UsageError(f"{file}: not six classes for each image; get it again")
    column, values = (4, 32) if task.name == "dsprites_loc" else (3, 40)

    def read(positions: Sequence[int]) -> dict[int, Item]:
        images = read_binary_images(stored, positions)
        items = {}
        for number, position in enumerate(positions):
            try:
                label = label_rules.dsprites(int(classes[position, column]), values)
            except ValueError as error:
                raise UsageError(f"{file}: image {position}: {error}; get it again") from error
            items[position] = Item(Record(images, number, f"{file}[{position}]"), label)
        return items

    return SourceData({"train": SourceSplit(file, range(len(classes)), read)})


def smallnorb(folder: Path, task: Task) -> SourceData:
    """Read the left images of the authors' ``.mat`` files, which may be packed (``.mat.gz``).

    Source: https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/
    """

    def split(name: str) -> SourceSplit:
        file, labels_file = (folder / _NORB_FILES[name].format(part) for part in ("dat", "info"))
        pixels, info = _read_norb(file), _read_norb(labels_file)
        if pixels.shape[1:] != (2, 96, 96) or info.shape != (len(pixels), 4):
            raise UsageError(
                f"{file}: {pixels.shape} images and {info.shape} labels do not belong together; "
                "get both again"
            )
        # Columns are instance, elevation, azimuth (0, 2, .. 34) and lighting.
        labels = info[:, 1] if task.name == "smallnorb_ele" else info[:, 2] // 2
        return from_arrays(labels_file, pixels[:, 0], labels.tolist())

    return SourceData({name: split(name) for name in _NORB_FILES})


class _Unpickler(pickle.Unpickler):
    """An unpickler that refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong there")
        if name == "_reconstruct":  # numpy has moved it, and calls the old place deprecated
            return np.empty(0).__reduce__()[0]
        return super().find_class(module, name)


def _read_pickle(file: Path) -> dict[str, Any]:
    with named_errors(file), file.open("rb") as opened:
        content = _Unpickler(opened, encoding="latin1").load()
    if not isinstance(content, dict):
        raise UsageError(f"{file}: no dictionary in it; get the data set again")
    return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in content.items()}


def _read_norb(file: Path) -> NDArray[Any]:
    """Read a matrix: a magic number, the number of dimensions, at least three sizes, the values."""
    packed = file.with_name(f"{file.name}.gz")
    file = file if file.is_file() else packed
    with named_errors(file), gzip.open(file) if file == packed else file.open("rb") as opened:
        magic, count = struct.unpack("<ii", opened.read(8))
        if magic not in _NORB_TYPES or not 1 <= count <= 4:
            raise ValueError("not a matrix of Small NORB")
        sizes = struct.unpack(f"<{max(3, count)}i", opened.read(4 * max(3, count)))
        return np.frombuffer(opened.read(), _NORB_TYPES[magic]).reshape(sizes[:count])

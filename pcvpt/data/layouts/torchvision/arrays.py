"""Sets that are arrays in a file: CIFAR-100, SVHN, PatchCamelyon, dSprites."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from pcvpt.data.layouts.torchvision.hdf5 import HDF5Images, read_array, read_binary_images
from pcvpt.data.layouts.torchvision.splits import Raw, RawSplit, check_label, split_of_items
from pcvpt.data.splits import Item, Record
from pcvpt.data.tasks import label_rules
from pcvpt.errors import UsageError

DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
_PICKLED = {  # all that a pickled dict of arrays, numbers and strings needs
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def cifar100(folder: Path, num_classes: int) -> Raw:
    """Read the pickles ``train``, ``test`` and ``meta``.

    TFDS reads the binary edition; both list the images in the same order.
    """
    meta = folder / "meta"
    names = _unpickled(meta).get("fine_label_names")
    if not isinstance(names, list) or len(names) != num_classes:
        raise UsageError(f"{meta}: no names of {num_classes} classes; get the data set anew")

    def split(file: Path) -> RawSplit:
        held = _unpickled(file)
        pixels: Any = held.get("data")
        labels = held.get("fine_labels")
        right = isinstance(pixels, np.ndarray) and pixels.ndim == 2 and pixels.shape[1] == 3072
        if not right or not isinstance(labels, list) or len(labels) != len(pixels):
            raise UsageError(f"{file}: no images with labels in it; get the data set anew")

        def item(position: int) -> Item:
            image = pixels[position].reshape(3, 32, 32).transpose(1, 2, 0)
            return Item(
                np.ascontiguousarray(image), check_label(labels[position], num_classes, file)
            )

        return split_of_items(range(len(pixels)), item)

    return Raw(
        {"train": split(folder / "train"), "test": split(folder / "test")}, tuple(map(str, names))
    )


def svhn(folder: Path, num_classes: int) -> Raw:
    """Read ``train_32x32.mat`` and ``test_32x32.mat``; the label of a zero is 10 there."""

    def split(file: Path) -> RawSplit:
        try:
            held = loadmat(file)
            pixels, labels = held["X"], held["y"].reshape(-1)
        except Exception as error:  # scipy raises nearly anything on damaged files
            raise UsageError(
                f"{file}: cannot be read ({type(error).__name__}: {error}); get it anew"
            ) from error
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != len(labels):
            raise UsageError(f"{file}: no images with labels in it; get it anew")

        def item(position: int) -> Item:
            label = check_label(int(labels[position]) % 10, num_classes, file)
            return Item(np.ascontiguousarray(pixels[..., position]), label)

        return split_of_items(range(len(labels)), item)

    return Raw({name: split(folder / f"{name}_32x32.mat") for name in ("train", "test")})


def patch_camelyon(folder: Path, num_classes: int) -> Raw:
    """Read ``camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5``."""

    def split(part: str) -> RawSplit:
        stem = f"camelyonpatch_level_2_split_{part}"
        images = HDF5Images(folder / f"{stem}_x.h5", "x")
        file = folder / f"{stem}_y.h5"
        labels = read_array(file, "y").reshape(-1)
        if len(labels) != len(images):
            raise UsageError(
                f"{file}: {len(labels)} labels, but {len(images)} images in {images.path.name}; "
                "get both anew"
            )

        def item(position: int) -> Item:
            record = Record(images, position, f"{images.path}[{position}]")
            return Item(record, check_label(int(labels[position]), num_classes, file))

        return split_of_items([f"{part}_{number}" for number in range(len(labels))], item)

    return Raw({"train": split("train"), "validation": split("valid"), "test": split("test")})


def dsprites(folder: Path, num_classes: int, task: str) -> Raw:
    """Read the HDF5 edition; its pixels are 0 and 1.

    It is compressed in blocks of thousands of images, so that the images used are taken out of it
    at once. They are kept in memory, eight pixels a byte.
    """
    file = folder / DSPRITES
    classes = read_array(file, "latents/classes")
    if classes.ndim != 2 or classes.shape[1] != 6:
        raise UsageError(f"{file}: not six classes for each image; get it anew")
    rule: Callable[[int], int]
    rule, column = {
        "dsprites_loc": (label_rules.dsprites_loc, 4),
        "dsprites_ori": (label_rules.dsprites_ori, 3),
    }[task]

    def items(positions: Sequence[int]) -> list[Item]:
        images = read_binary_images(file, "imgs", positions, len(classes))
        found = []
        for number, position in enumerate(positions):
            try:
                label = rule(int(classes[position, column]))
            except ValueError as error:
                raise UsageError(f"{file}: image {position}: {error}; get it anew") from error
            record = Record(images, number, f"{file}[{position}]")
            found.append(Item(record, check_label(label, num_classes, file)))
        return found

    return Raw({"train": RawSplit(range(len(classes)), items)})


class _Unpickler(pickle.Unpickler):
    """Refuses whatever could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong there")
        if name == "_reconstruct":  # numpy has moved it, and has named the old place deprecated
            return np.empty(0).__reduce__()[0]
        return super().find_class(module, name)


def _unpickled(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            held = _Unpickler(opened, encoding="latin1").load()
    except Exception as error:  # damaged pickles raise nearly anything
        raise UsageError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); get the data set anew"
        ) from error
    if not isinstance(held, dict):
        raise UsageError(f"{file}: no dictionary in it; get the data set anew")
    return {key.decode() if isinstance(key, bytes) else str(key): held[key] for key in held}

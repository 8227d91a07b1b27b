"""Images in HDF5 files, read one by one; h5py is an optional dependency."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pcvpt.data.image_files import named_errors
from pcvpt.data.layouts.base import OpenFile
from pcvpt.errors import UsageError


@dataclass(eq=False)
class HDF5Images(OpenFile):
    """Images in the array ``name`` of a file, (n, h, w) or (n, h, w, 3), uint8."""

    name: str

    def __len__(self) -> int:
        return len(self.handle)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return an image, (h, w) or (h, w, 3)."""
        with named_errors(self.path):
            return np.asarray(self.handle[index])

    @override
    def open(self) -> Any:
        array = _open(self.path, self.name)
        if getattr(array, "dtype", None) != np.uint8 or array.ndim not in (3, 4):
            raise UsageError(f"{self.path}: {self.name} is not an array of images; get it again")
        return array


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Return a whole array of an HDF5 file."""
    with named_errors(path):
        return np.asarray(_open(path, name))


@dataclass(frozen=True, eq=False)
class BinaryImages:
    """Black and white images in memory, eight pixels per byte."""

    packed: NDArray[np.uint8]  # (n, h, w / 8)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return an image, (h, w), of 0 and 255."""
        return np.unpackbits(self.packed[index], axis=1) * np.uint8(255)


def read_binary_images(images: HDF5Images, positions: Sequence[int]) -> BinaryImages:
    """Return some of the images, (n, h, w) of zeros and ones, in one pass over the file."""
    array = images.handle
    wanted = np.asarray(positions, np.int64)
    packed = np.empty((len(wanted), array.shape[1], array.shape[2] // 8), np.uint8)
    step = array.chunks[0] if array.chunks else 10_000
    with named_errors(images.path):
        for start in range(0, len(array), step):
            in_block = np.flatnonzero((start <= wanted) & (wanted < start + step))
            if len(in_block):
                block = array[start : start + step]
                packed[in_block] = np.packbits(block[wanted[in_block] - start], axis=2)
    return BinaryImages(packed)


def _open(path: Path, name: str) -> Any:
    try:
        import h5py  # optional, and slow to import
    except ImportError as error:
        raise UsageError(f"{path}: reading it needs h5py; pip install 'pcvpt[tfds]'") from error
    return h5py.File(path, "r")[name]

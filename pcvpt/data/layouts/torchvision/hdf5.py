"""Images in HDF5 files, read one by one; h5py is an optional dependency."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcvpt.data.layouts.base import named_errors
from pcvpt.errors import UsageError


class HDF5Images:
    """Images in an array (n, h, w) or (n, h, w, 3), uint8; it pickles without the open file."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self._array: Any = None
        self._owner = 0
        array = self._opened()
        if getattr(array, "dtype", None) != np.uint8 or array.ndim not in (3, 4):
            raise UsageError(f"{path}: {name} is not an array of images; get the file again")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None, "_owner": 0}

    def __len__(self) -> int:
        return len(self._opened())

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return an image, (h, w) or (h, w, 3)."""
        with named_errors(self.path):
            return np.asarray(self._opened()[index])

    def _opened(self) -> Any:
        if self._owner != os.getpid():  # a forked process must not share the position in the file
            self._array, self._owner = _open(self.path, self.name), os.getpid()
        return self._array


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Return a whole array of an HDF5 file."""
    with named_errors(path):
        return np.asarray(_open(path, name))


@dataclass(frozen=True, eq=False)
class BinaryImages:
    """Black and white images in memory, eight pixels per byte."""

    packed: NDArray[np.uint8]  # (n, h · w / 8)
    size: tuple[int, int]  # (h, w) of an image

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return an image, (h, w), of 0 and 255."""
        height, width = self.size
        pixels = np.unpackbits(self.packed[index], count=height * width)
        return pixels.reshape(height, width) * np.uint8(255)


def read_binary_images(
    path: Path, name: str, positions: Sequence[int], length: int
) -> BinaryImages:
    """Return some images of an array of zeros and ones, (length, h, w), uint8, in one pass."""
    array = _open(path, name)
    if getattr(array, "dtype", None) != np.uint8 or array.ndim != 3 or len(array) != length:
        raise UsageError(f"{path}: {name} is not an array of {length} images; get the file again")
    wanted = np.asarray(positions, np.int64)
    height, width = array.shape[1:]
    packed = np.empty((len(wanted), -(-height * width // 8)), np.uint8)
    step = array.chunks[0] if array.chunks else 10_000
    with named_errors(path):
        for start in range(0, length, step):
            in_block = np.flatnonzero((start <= wanted) & (wanted < start + step))
            if len(in_block):
                block = array[start : start + step].reshape(-1, height * width)
                packed[in_block] = np.packbits(block[wanted[in_block] - start], axis=1)
    return BinaryImages(packed, (height, width))


def _open(path: Path, name: str) -> Any:
    try:
        import h5py  # optional, and slow to import
    except ImportError as error:
        raise UsageError(f"{path}: reading it needs h5py; pip install 'pcvpt[tfds]'") from error
    with named_errors(path):
        return h5py.File(path, "r")[name]

"""Small NORB in the authors' files, https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/."""

import gzip
import struct
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from pcvpt.data.layouts.torchvision.source import (
    SourceData,
    SourceSplit,
    checked_label,
    one_by_one,
)
from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

_BYTES, _INTS = 507333717, 507333716  # first number of a file of Small NORB
_FILES = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training-{}.mat",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing-{}.mat",
}


def smallnorb(folder: Path, task: Task) -> SourceData:
    """Read the left images of the authors' ``.mat`` files, which may be packed (``.mat.gz``)."""

    def split(name: str) -> SourceSplit:
        file, labels_file = (folder / _FILES[name].format(part) for part in ("dat", "info"))
        pixels, info = _read_matrix(file), _read_matrix(labels_file)
        if pixels.shape[1:] != (2, 96, 96) or info.shape != (len(pixels), 4):
            raise UsageError(
                f"{file}: {pixels.shape} images and {info.shape} labels do not belong together; "
                "get both again"
            )
        # Columns are instance, elevation, azimuth (0, 2, .. 34) and lighting.
        labels = info[:, 1] if task.name == "smallnorb_ele" else info[:, 2] // 2

        def item(position: int) -> Item:
            label = checked_label(int(labels[position]), task, labels_file)
            return Item(np.array(pixels[position, 0]), label)

        return one_by_one(range(len(pixels)), item)

    return SourceData({name: split(name) for name in _FILES})


def _read_matrix(file: Path) -> NDArray[Any]:
    """Read a matrix: a magic number, the number of dimensions, at least three sizes, the values."""
    packed = file.with_name(f"{file.name}.gz")
    file = file if file.is_file() else packed
    try:
        if file == packed:
            with gzip.open(file) as opened:
                kind, shape, _ = _read_header(cast(IO[bytes], opened))
                values = np.frombuffer(opened.read(), kind)
            return values.reshape(shape)
        with file.open("rb") as opened:
            kind, shape, start = _read_header(opened)
        return np.memmap(file, kind, "r", start, shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise UsageError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); get it again"
        ) from error


def _read_header(file: IO[bytes]) -> tuple[str, tuple[int, ...], int]:
    """Return the type of the values, the shape, and the position of the first value."""
    magic, count = struct.unpack("<ii", file.read(8))
    if magic not in (_BYTES, _INTS) or not 1 <= count <= 4:
        raise ValueError("not a matrix of Small NORB")
    sizes = struct.unpack(f"<{max(3, count)}i", file.read(4 * max(3, count)))
    return ("u1" if magic == _BYTES else "<i4"), sizes[:count], 8 + 4 * max(3, count)

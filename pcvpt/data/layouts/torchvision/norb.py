"""Small NORB in the authors' files, https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/."""

import gzip
import struct
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from pcvpt.data.layouts.torchvision.splits import Raw, RawSplit, check_label, split_of_items
from pcvpt.data.splits import Item
from pcvpt.errors import UsageError

_BYTES, _INTS = 507333717, 507333716  # what a file of Small NORB begins with
_FILES = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training-{}.mat",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing-{}.mat",
}
_COLUMNS = {"smallnorb_ele": 1, "smallnorb_azi": 2}


def smallnorb(folder: Path, num_classes: int, task: str) -> Raw:
    """Read the left images of the authors' ``.mat`` files, which may be packed (``.mat.gz``)."""

    def split(name: str) -> RawSplit:
        file = _FILES[name]
        pixels = _matrix(folder / file.format("dat"))
        info = _matrix(folder / file.format("info"))
        if pixels.shape[1:] != (2, 96, 96) or info.shape != (len(pixels), 4):
            raise UsageError(
                f"{folder / file.format('dat')}: {pixels.shape} images and {info.shape} labels "
                "do not belong together; get both anew"
            )
        # Azimuths are 0, 2, .. 34.
        labels = info[:, _COLUMNS[task]] // (2 if task == "smallnorb_azi" else 1)

        def item(position: int) -> Item:
            label = check_label(int(labels[position]), num_classes, folder / file.format("info"))
            return Item(np.array(pixels[position, 0]), label)

        return split_of_items(range(len(pixels)), item)

    return Raw({name: split(name) for name in _FILES})


def _matrix(file: Path) -> NDArray[Any]:
    """Read a matrix: a magic number, the number of dimensions, at least three sizes, the values."""
    packed = file.with_name(f"{file.name}.gz")
    file = file if file.is_file() else packed
    try:
        if file == packed:
            with gzip.open(file) as opened:
                kind, shape, _ = _header(cast(IO[bytes], opened))
                values = np.frombuffer(opened.read(), kind)
            return values.reshape(shape)
        with file.open("rb") as opened:
            kind, shape, start = _header(opened)
        return np.memmap(file, kind, "r", start, shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise UsageError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); get it anew"
        ) from error


def _header(file: IO[bytes]) -> tuple[str, tuple[int, ...], int]:
    """Return the kind of the values, the shape, and where the values start."""
    magic, count = struct.unpack("<ii", file.read(8))
    if magic not in (_BYTES, _INTS) or not 1 <= count <= 4:
        raise ValueError("not a matrix of Small NORB")
    sizes = struct.unpack(f"<{max(3, count)}i", file.read(4 * max(3, count)))
    return ("u1" if magic == _BYTES else "<i4"), sizes[:count], 8 + 4 * max(3, count)

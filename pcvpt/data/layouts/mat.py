"""MATLAB files, in which several authors give names, classes, splits or images."""

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcvpt.data.image_files import named_errors
from pcvpt.data.readers.listed_images import listed_path, require_images
from pcvpt.data.splits import Item
from pcvpt.errors import UsageError

_COMPRESSED = 15  # type of a top-level element that is a zlib stream


class MatFile:
    """The variables of a MATLAB file, and the fields of its struct arrays.

    Names are those of variables, or ``variable.field``. All methods raise a ``UsageError`` that
    names the file and the variable.
    """

    def __init__(self, file: Path) -> None:
        from scipy.io import loadmat  # slow to import, and only some layouts need it

        self.file = file
        self._arrays: dict[str, NDArray[Any]] = {}  # the variables and their fields
        with named_errors(file):
            content = file.read_bytes()
            if content[124:128] in (b"\x00\x02IM", b"\x02\x00MI"):
                raise UsageError(f"{file}: a MATLAB 7.3 file; get the authors' own")
            _check_compression(content)
            for name, value in loadmat(io.BytesIO(content), squeeze_me=True).items():
                array = self._arrays[name] = np.atleast_1d(value)
                for field in array.dtype.names or ():
                    self._arrays[f"{name}.{field}"] = array[field]

    def has(self, name: str) -> bool:
        """Return whether there is this variable, or this field of a struct array."""
        return name in self._arrays

    def array(self, name: str) -> NDArray[Any]:
        """Return a variable, or a field of a struct array, without axes of length 1."""
        if not self.has(name):
            raise self._fault(name, "is missing")
        if not self._arrays[name].size:
            raise self._fault(name, "is empty")
        return self._arrays[name]

    def texts(self, name: str) -> list[str]:
        """Return an array of strings as a list."""
        values = self.array(name).ravel()
        if not all(isinstance(value, str) for value in values):
            raise self._fault(name, "does not consist of strings")
        return [str(value) for value in values]

    def integers(self, name: str) -> list[int]:
        """Return an array of integers, of any numeric type, as a list."""
        values = self.array(name).ravel()
        with suppress(TypeError, ValueError, OverflowError):  # texts, not a number, infinity
            numbers = [int(value) for value in values]
            if numbers == values.tolist():
                return numbers
        raise self._fault(name, "does not consist of integers")

    def labels(self, name: str, num_classes: int) -> list[int]:
        """Return an array of class ids in [1, ``num_classes``] as labels from 0."""
        ids = self.integers(name)
        for class_id in ids:
            if not 1 <= class_id <= num_classes:
                raise self._fault(name, f"has class {class_id}, which is not in [1, {num_classes}]")
        return [class_id - 1 for class_id in ids]

    def items(self, images: Path, names: str, ids: str, num_classes: int) -> tuple[Item, ...]:
        """Return the images in the folder ``images`` that an array lists, and their labels."""
        paths = [listed_path(images, name, str(self.file)) for name in self.texts(names)]
        labels = self.labels(ids, num_classes)
        if len(paths) != len(labels):
            raise self._fault(names, f"has {len(paths)} images, but {len(labels)} labels")
        if len(paths) != len(set(paths)):
            raise self._fault(names, "lists an image twice")
        require_images(paths, self.file)
        return tuple(map(Item, paths, labels))

    def _fault(self, name: str, fault: str) -> UsageError:
        return UsageError(f"{self.file}: {name} {fault}; get the authors' own file")


def _check_compression(content: bytes) -> None:
    """Decompress the variables of a version 5 file once, because they carry checksums.

    scipy parses while it decompresses, and damaged variables can bring the process down.
    """
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(content[124:128])
    position = 128
    while order is not None and position + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, position)
        position += 8
        if kind == _COMPRESSED:
            zlib.decompress(content[position : position + size])
        position += size

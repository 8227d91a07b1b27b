"""MATLAB files, in which several authors give names, classes, splits or images."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcvpt.errors import UsageError

_COMPRESSED = 15  # type of a top-level element that is a zlib stream


class MatFile:
    """The variables of a MATLAB file, and the fields of its struct arrays.

    All methods raise a ``UsageError`` that names the file and the variable.
    """

    def __init__(self, file: Path) -> None:
        from scipy.io import loadmat  # slow to import, and only some layouts need it

        self.file = file
        try:
            content = file.read_bytes()
            _check_compression(content)
            self._variables: dict[str, Any] = loadmat(io.BytesIO(content), squeeze_me=True)
        except NotImplementedError as error:
            raise UsageError(
                f"{file}: a MATLAB 7.3 file; save it in MATLAB with -v7, or get the authors' own"
            ) from error
        except Exception as error:  # a damaged file makes scipy raise nearly anything
            fault = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UsageError(
                f"{file}: cannot be read as a MATLAB file ({fault}); get it again"
            ) from error

    def has(self, variable: str, field: str) -> bool:
        """Return whether the struct array ``variable`` has ``field``."""
        return field in (np.atleast_1d(self._variables.get(variable, 0)).dtype.names or ())

    def array(self, variable: str, field: str | None = None) -> NDArray[Any]:
        """Return a variable, or a field of a struct array, without axes of length 1."""
        if variable not in self._variables or (field and not self.has(variable, field)):
            raise self._fault(variable, field, "is missing")
        values = np.atleast_1d(self._variables[variable])
        if field is not None:
            values = values[field]
        if not values.size:
            raise self._fault(variable, field, "is empty")
        return values

    def texts(self, variable: str, field: str | None = None) -> list[str]:
        """Return an array of strings as a list."""
        values = self.array(variable, field).ravel()
        if not all(isinstance(value, str) for value in values):
            raise self._fault(variable, field, "does not consist of strings")
        return [str(value) for value in values]

    def integers(self, variable: str, field: str | None = None) -> list[int]:
        """Return an array of integers, of any numeric type, as a list."""
        values = self.array(variable, field).ravel()
        try:
            numbers = np.array([float(value) for value in values])
        except (TypeError, ValueError) as error:
            raise self._fault(variable, field, "does not consist of numbers") from error
        if not (np.abs(numbers) < 2**31).all() or (numbers % 1).any():
            raise self._fault(variable, field, "does not consist of integers")
        return [int(number) for number in numbers]

    def labels(self, variable: str, field: str | None, num_classes: int) -> list[int]:
        """Return an array of class ids in [1, ``num_classes``] as labels from 0."""
        ids = self.integers(variable, field)
        for class_id in ids:
            if not 1 <= class_id <= num_classes:
                fault = f"has class {class_id}, which is not in [1, {num_classes}]"
                raise self._fault(variable, field, fault)
        return [class_id - 1 for class_id in ids]

    def _fault(self, variable: str, field: str | None, fault: str) -> UsageError:
        name = variable if field is None else f"{variable}.{field}"
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

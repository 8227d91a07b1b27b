"""MATLAB files, in which the authors of Flowers, Dogs and Cars give names, classes and splits."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from pcvpt.errors import UsageError

_COMPRESSED = 15  # type of a top-level element that is a zlib stream


class MatFile:
    """The variables of a MATLAB file, and the fields of its struct arrays, as lists.

    Raises:
        UsageError: if the file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            held = file.read_bytes()
            _check_sums(held)
            content = loadmat(io.BytesIO(held), squeeze_me=True)
        except NotImplementedError as error:
            raise UsageError(
                f"{file}: a MATLAB 7.3 file; get the authors' own file, or save it in MATLAB "
                "with -v7"
            ) from error
        except Exception as error:  # a damaged file makes scipy raise nearly anything
            fault = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UsageError(
                f"{file}: cannot be read as a MATLAB file ({fault}); get it anew"
            ) from error
        self._content: dict[str, Any] = content

    def has(self, variable: str, field: str) -> bool:
        """Return whether the struct array ``variable`` has ``field``."""
        return field in (np.atleast_1d(self._content.get(variable, 0)).dtype.names or ())

    def texts(self, variable: str, field: str | None = None) -> list[str]:
        """Return an array of strings.

        Raises:
            UsageError: if it is missing or holds anything else.
        """
        values = self._values(variable, field)
        if not all(isinstance(value, str) for value in values):
            raise self._fault(variable, field, "holds something else than strings")
        return [str(value) for value in values]

    def integers(self, variable: str, field: str | None = None) -> list[int]:
        """Return an array of integers, of whatever type.

        Raises:
            UsageError: if it is missing or holds anything else.
        """
        values = self._values(variable, field)
        try:
            numbers = np.array([float(value) for value in values])
        except (TypeError, ValueError) as error:
            raise self._fault(variable, field, "holds something else than numbers") from error
        if not (np.abs(numbers) < 2**31).all() or (numbers % 1).any():
            raise self._fault(variable, field, "holds something else than integers")
        return [int(number) for number in numbers]

    def labels(self, variable: str, field: str | None, num_classes: int) -> list[int]:
        """Return an array of class ids that begin with 1 as labels that begin with 0.

        Raises:
            UsageError: as ``integers``, and for an id above ``num_classes`` or below 1.
        """
        ids = self.integers(variable, field)
        for class_id in ids:
            if not 1 <= class_id <= num_classes:
                raise self._fault(
                    variable, field, f"has class {class_id}, which is not in [1, {num_classes}]"
                )
        return [class_id - 1 for class_id in ids]

    def _values(self, variable: str, field: str | None) -> NDArray[Any]:
        if variable not in self._content:
            raise self._fault(variable, None, "is missing")
        values = np.atleast_1d(self._content[variable])
        if field is not None:
            if field not in (values.dtype.names or ()):
                raise self._fault(variable, field, "is missing")
            values = values[field]
        if not values.size:
            raise self._fault(variable, field, "is empty")
        return values.ravel()

    def _fault(self, variable: str, field: str | None, fault: str) -> UsageError:
        name = variable if field is None else f"{variable}.{field}"
        return UsageError(f"{self.file}: {name} {fault}; get the authors' own file")


def _check_sums(held: bytes) -> None:
    """Decompress the variables of a version 5 file, which have check sums, once beforehand.

    scipy parses while it decompresses, and can bring the process down on what is damaged.
    """
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(held[124:128])
    position = 128
    while order is not None and position + 8 <= len(held):
        kind, size = struct.unpack_from(f"{order}II", held, position)
        position += 8
        if kind == _COMPRESSED:
            zlib.decompress(held[position : position + size])
        position += size

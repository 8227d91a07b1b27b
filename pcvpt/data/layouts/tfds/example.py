"""``tf.train.Example``, read lazily: the payload of an image is passed over, not copied.

The message is ``{1: {1: map<string, Feature>}}``, a Feature one of ``{1: bytes list, 2: float
list, 3: int64 list}``, each with its values in field 1, see
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto and
https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_BYTES, _FLOATS, _INTS = 1, 2, 3

Features = Mapping[str, memoryview]
"""Encoded features by name."""


def features(example: bytes | memoryview) -> Features:
    """Return the features of an encoded example, themselves still encoded.

    Raises:
        ValueError: if ``example`` is none.
    """
    found: dict[str, memoryview] = {}
    for part in _messages(memoryview(example), 1):
        for entry in _messages(part, 1):
            name, value = b"", memoryview(b"")
            for number, held in _fields(entry):
                if number == 1 and isinstance(held, memoryview):
                    name = bytes(held)
                elif number == 2 and isinstance(held, memoryview):
                    value = held
            found[name.decode()] = value
    return found


def bytes_in(feature: memoryview) -> bytes:
    """Return the single value of a list of bytes.

    Raises:
        ValueError: if there is not exactly one.
    """
    values = [value for part in _messages(feature, _BYTES) for value in _messages(part, 1)]
    if len(values) != 1:
        raise ValueError(f"{len(values)} values where one is expected")
    return bytes(values[0])


def ints_in(feature: memoryview) -> list[int]:
    """Return the values of a list of integers; none if it is of another kind."""
    values = []
    for part in _messages(feature, _INTS):
        for number, held in _fields(part):
            if number == 1 and isinstance(held, memoryview):
                position = 0
                while position < len(held):
                    value, position = _varint(held, position)
                    values.append(value)
            elif number == 1 and isinstance(held, int):
                values.append(held)
    return [value - (1 << 64) if value >> 63 else value for value in values]


def floats_in(feature: memoryview) -> NDArray[np.float32]:
    """Return the values of a list of floats; none if it is of another kind."""
    parts = [b""]
    for part in _messages(feature, _FLOATS):
        # One value is four bytes, whether it stands alone or packed with others.
        parts += [bytes(held) for n, held in _fields(part) if n == 1 and not isinstance(held, int)]
    return np.frombuffer(b"".join(parts), dtype="<f4")


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    """Yield what the fields called ``number`` hold."""
    for each, held in _fields(data):
        if each == number and isinstance(held, memoryview):
            yield held


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == _LENGTH:
            size, position = _varint(data, position)
        elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if kind == _FOUR_BYTES else 8
        else:
            raise ValueError(f"field of kind {kind}")
        if position + size > len(data):
            raise ValueError("a field is longer than its message")
        yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise ValueError("a number of more than 64 bits")

"""``tf.train.Example``, read lazily: the content of an image is skipped, not copied.

The message is ``{1: {1: map<string, Feature>}}``, a Feature one of ``{1: bytes list, 2: float
list, 3: int64 list}``, each with its values in field 1, see
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto and
https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_BYTES, _FLOATS, _INTS = 1, 2, 3
_Value = TypeVar("_Value")

Features = Mapping[str, memoryview]
"""Encoded features by name."""


def features(example: bytes | memoryview) -> Features:
    """Return the features, each still encoded. Raise a ``ValueError`` for a damaged example."""
    found: dict[str, memoryview] = {}
    for part in _messages(memoryview(example), 1):
        for entry in _messages(part, 1):
            # Of a field that is repeated the last counts, and one that is absent is empty.
            names = [memoryview(b""), *_messages(entry, 1)]
            values = [memoryview(b""), *_messages(entry, 2)]
            found[bytes(names[-1]).decode()] = values[-1]
    return found


def bytes_value(feature: memoryview) -> bytes:
    """Return the only value of a list of bytes. Raise a ``ValueError`` for any other number."""
    return bytes(_only([each for each in _values(feature, _BYTES) if not isinstance(each, int)]))


def int_value(feature: memoryview) -> int:
    """Return the only value of a list of integers. Raise a ``ValueError`` for any other number."""
    return _only(int_values(feature))


def int_values(feature: memoryview) -> list[int]:
    """Return the values of a list of integers; none if the list is of another kind."""
    values = []
    for content in _values(feature, _INTS):
        if isinstance(content, int):
            values.append(content)
            continue
        position = 0
        while position < len(content):  # packed
            value, position = _varint(content, position)
            values.append(value)
    return [value - (1 << 64) if value >> 63 else value for value in values]


def float_values(feature: memoryview) -> list[float]:
    """Return the values of a list of floats; none if the list is of another kind."""
    # One value has four bytes, whether it stands alone or packed with others.
    parts = [bytes(value) for value in _values(feature, _FLOATS) if not isinstance(value, int)]
    floats: list[float] = np.frombuffer(b"".join(parts), dtype="<f4").tolist()
    return floats


def _only(values: list[_Value]) -> _Value:
    if len(values) != 1:
        raise ValueError(f"{len(values)} values where one is expected")
    return values[0]


def _values(feature: memoryview, kind: int) -> Iterator[int | memoryview]:
    """Yield what a list of the given kind holds, each value or packed values."""
    for part in _messages(feature, kind):
        yield from (content for number, content in _fields(part) if number == 1)


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the content of the fields with the number ``wanted``."""
    for number, content in _fields(data):
        if number == wanted and isinstance(content, memoryview):
            yield content


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

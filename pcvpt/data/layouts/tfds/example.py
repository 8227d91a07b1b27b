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
    for entry in _messages(memoryview(example), 1, 1):
        # Of a field that is repeated the last counts, and one that is absent is empty.
        fields = {1: memoryview(b""), 2: memoryview(b"")}
        fields |= {number: part for number, part in _fields(entry) if isinstance(part, memoryview)}
        found[bytes(fields[1]).decode()] = fields[2]
    return found


def bytes_value(feature: memoryview) -> bytes:
    """Return the only value of a list of bytes. Raise a ``ValueError`` for any other number."""
    return bytes(_only([*_messages(feature, _BYTES, 1)]))


def int_value(feature: memoryview) -> int:
    """Return the only value of a list of integers. Raise a ``ValueError`` for any other number."""
    return _only(int_values(feature))


def int_values(feature: memoryview) -> list[int]:
    """Return the values of a list of integers; none if the list is of another kind."""
    values = []
    for held in _messages(feature, _INTS):
        for content in (content for number, content in _fields(held) if number == 1):
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
    floats: list[float] = np.frombuffer(b"".join(_messages(feature, _FLOATS, 1)), "<f4").tolist()
    return floats


def _only(values: list[_Value]) -> _Value:
    if len(values) != 1:
        raise ValueError(f"{len(values)} values where one is expected")
    return values[0]


def _messages(data: memoryview, number: int, *inner: int) -> Iterator[memoryview]:
    """Yield the content of the fields with ``number``, or of the ``inner`` fields in them."""
    for found, content in _fields(data):
        if found == number and isinstance(content, memoryview):
            yield from _messages(content, *inner) if inner else (content,)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        size, position = (
            _varint(data, position)
            if kind in (_VARINT, _LENGTH)
            else ({_FOUR_BYTES: 4, _EIGHT_BYTES: 8}.get(kind), position)
        )
        if size is None:
            raise ValueError(f"field of kind {kind}")
        if kind == _VARINT:
            yield number, size
            continue
        if position + size > len(data):
            raise ValueError("a field is longer than its message")
        yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    value = 0
    for place, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + place + 1
    raise ValueError("it ends within a number, or the number has more than 64 bits")

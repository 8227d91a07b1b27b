"""``tf.train.Example``, read lazily: the content of an image is skipped, not copied.

The message is ``{1: {1: map<string, Feature>}}``, a Feature one of ``{1: bytes list, 2: float
list, 3: int64 list}``, each with its values in field 1, numbers packed. So every field has a
length. See
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto and
https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator, Mapping

import numpy as np

_LENGTH = 2  # kind of a field that begins with its length
_BYTES, _FLOATS, _INTS = 1, 2, 3

Features = Mapping[str, memoryview]
"""Encoded features by name."""


def features(example: bytes | memoryview) -> Features:
    """Return the features, each still encoded. Raise a ``ValueError`` for a damaged example."""
    found: dict[str, memoryview] = {}
    for entry in _contents(memoryview(example), 1, 1):
        # Of a field that is repeated the last counts, and one that is absent is empty.
        fields = {1: memoryview(b""), 2: memoryview(b"")} | dict(_fields(entry))
        found[bytes(fields[1]).decode()] = fields[2]
    return found


def bytes_value(feature: memoryview) -> bytes:
    """Return the only value of a list of bytes. Raise a ``ValueError`` for any other number."""
    (content,) = _contents(feature, _BYTES, 1)
    return bytes(content)


def int_value(feature: memoryview) -> int:
    """Return the only value of a list of integers. Raise a ``ValueError`` for any other number."""
    (value,) = int_values(feature)
    return value


def int_values(feature: memoryview) -> list[int]:
    """Return the values of a list of integers; none if the list is of another kind."""
    values = []
    for packed in _contents(feature, _INTS, 1):
        position = 0
        while position < len(packed):
            value, position = _varint(packed, position)
            values.append(value - (1 << 64) if value >> 63 else value)
    return values


def float_values(feature: memoryview) -> list[float]:
    """Return the values of a list of floats; none if the list is of another kind."""
    floats: list[float] = np.frombuffer(b"".join(_contents(feature, _FLOATS, 1)), "<f4").tolist()
    return floats


def _contents(data: memoryview, number: int, *inner: int) -> Iterator[memoryview]:
    """Yield the content of the fields with ``number``, or of the ``inner`` fields in them."""
    for found, content in _fields(data):
        if found == number:
            yield from _contents(content, *inner) if inner else (content,)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 != _LENGTH:
            raise ValueError(f"field of kind {tag & 7}")
        size, position = _varint(data, position)
        if position + size > len(data):
            raise ValueError("a field is longer than its message")
        yield tag >> 3, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    value = 0
    for place, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + place + 1
    raise ValueError("it ends within a number, or the number has more than 64 bits")

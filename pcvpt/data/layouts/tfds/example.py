"""``tf.train.Example``, in which TFDS stores an image and its features.

The messages are those of
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto, of which
TensorBoard has none. protobuf is imported when an example is read: nothing else waits for it.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

Features = Mapping[str, Any]
"""Features by name: messages with one list of values."""

_Value = TypeVar("_Value")
_MESSAGES = {  # fields in the order of their numbers: name, type, and whether they are repeated
    "BytesList": [("value", "BYTES", True)],
    "FloatList": [("value", "FLOAT", True)],
    "Int64List": [("value", "INT64", True)],
    "Feature": [
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    ],
    "Entry": [("key", "STRING", False), ("value", "Feature", False)],
    "Features": [("feature", "Entry", True)],  # a map, which is written as its entries
    "Example": [("features", "Features", False)],
}


def features(example: bytes | memoryview) -> Features:
    """Return the features of an encoded example. Raise a ``ValueError`` for a damaged one."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        entries = _class_of_examples().FromString(bytes(example)).features.feature
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return {entry.key: entry.value for entry in entries}


def bytes_value(feature: Any) -> bytes:
    """Return the only value of a list of bytes. Raise a ``ValueError`` for any other number."""
    values: Sequence[bytes] = feature.bytes_list.value
    return _only(values)


def int_value(feature: Any) -> int:
    """Return the only value of a list of integers. Raise a ``ValueError`` for any other number."""
    values: Sequence[int] = feature.int64_list.value
    return _only(values)


def _only(values: Sequence[_Value]) -> _Value:
    if len(values) != 1:
        raise ValueError(f"{len(values)} values where one is expected")
    return values[0]


@cache
def _class_of_examples() -> Any:
    from google.protobuf import (  # type: ignore[import-untyped]
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )

    of = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="pcvpt")
    file.syntax = "proto3"
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = of.LABEL_REPEATED if repeated else of.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = of.TYPE_MESSAGE, f".pcvpt.{kind}"
            else:
                added.type = of.Type.Value(f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pcvpt.Example"))

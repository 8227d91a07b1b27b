"""``tf.train.Example``, in which TFDS stores an image and its features.

The messages are those of
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto, of which
TensorBoard has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

Features = Mapping[str, Any]
"""Features by name: messages with one list of values."""

_Value = TypeVar("_Value")
_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {  # fields by number: name, type, and whether they are repeated
    "BytesList": [("value", _Field.TYPE_BYTES, True)],
    "FloatList": [("value", _Field.TYPE_FLOAT, True)],
    "Int64List": [("value", _Field.TYPE_INT64, True)],
    "Feature": [
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    ],
    "Entry": [("key", _Field.TYPE_STRING, False), ("value", "Feature", False)],
    "Features": [("feature", "Entry", True)],  # a map, which is written as its entries
    "Example": [("features", "Features", False)],
}


def features(example: bytes | memoryview) -> Features:
    """Return the features of an encoded example. Raise a ``ValueError`` for a damaged one."""
    try:
        entries = _Example.FromString(bytes(example)).features.feature
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


def _class_of_examples() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="pcvpt")
    file.syntax = "proto3"
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".pcvpt.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pcvpt.Example"))


_Example = _class_of_examples()

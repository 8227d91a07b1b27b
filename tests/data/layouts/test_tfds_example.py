import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from pcvpt.data.layouts.tfds.example import bytes_value, features, int_value

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
some = settings(max_examples=30, deadline=None)


def _example(name: str, **values: list[float] | list[int] | list[bytes]) -> bytes:
    example = tf_example_pb2.Example()
    for kind, held in values.items():
        getattr(example.features.feature[name], kind).value.extend(held)
    return bytes(example.SerializeToString())


@some
@given(st.text(min_size=1), st.lists(INT64), st.lists(FLOAT32), st.binary())
def test_values_are_read_as_they_were_written(
    name: str, ints: list[int], floats: list[float], content: bytes
) -> None:
    assert features(_example(name, int64_list=ints))[name].int64_list.value == ints
    assert features(_example(name, float_list=floats))[name].float_list.value == floats
    assert bytes_value(features(_example(name, bytes_list=[content]))[name]) == content


def test_features_keep_their_names() -> None:
    example = tf_example_pb2.Example()
    names = {"image": 5, "label": 5, "objects/type": 12}
    for name, value in names.items():
        example.features.feature[name].int64_list.value.append(value)
    found = features(example.SerializeToString())
    assert {name: int_value(value) for name, value in found.items()} == names


def test_values_that_are_not_packed_are_read_too() -> None:
    def example(kind: int, message: bytes) -> bytes:  # {1: {1: {1: "x", 2: {kind: message}}}}
        for tag in (kind << 3 | 2, 0x12):
            message = bytes([tag, len(message)]) + message
        message = b"\x0a\x01x" + message
        for tag in b"\x0a\x0a":
            message = bytes([tag, len(message)]) + message
        return message

    # {1: 7, 1: -1} and {1: 1.5}, each value in a separate field
    ints = b"\x08\x07\x08" + b"\xff" * 9 + b"\x01"
    assert features(example(3, ints))["x"].int64_list.value == [7, -1]
    floats = b"\x0d" + struct.pack("<f", 1.5)
    assert features(example(2, floats))["x"].float_list.value == [1.5]


@pytest.mark.parametrize("values", [[], [b"a", b"b"]])
def test_an_image_and_a_label_are_single_values(values: list[bytes]) -> None:
    message = f"{len(values)} values where one is expected"
    with pytest.raises(ValueError, match=message):
        bytes_value(features(_example("image", bytes_list=values))["image"])
    with pytest.raises(ValueError, match=message):
        int_value(features(_example("label", int64_list=[1] * len(values)))["label"])


def test_a_list_of_another_kind_has_no_values() -> None:
    found = features(_example("label", bytes_list=[b"3"]))["label"]
    assert list(found.int64_list.value) == list(found.float_list.value) == []


@some
@given(st.binary(max_size=60))
def test_what_is_not_an_example_raises_value_error_or_gives_no_values(data: bytes) -> None:
    try:
        for found in features(data).values():
            _ = [*found.int64_list.value, *found.float_list.value]
            bytes_value(found)
    except ValueError:
        pass  # and nothing else


def test_an_example_that_is_cut_short_is_refused() -> None:
    example = _example("image", bytes_list=[b"0123456789" * 20])
    for kept in range(1, len(example)):
        with pytest.raises(ValueError, match="Error parsing message"):
            bytes_value(features(example[:kept])["image"])

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from pcvpt.data.layouts.tfds.example import bytes_in, features, floats_in, ints_in

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)


def _example(name: str, **values: list[float] | list[int] | list[bytes]) -> bytes:
    example = tf_example_pb2.Example()
    for kind, held in values.items():
        getattr(example.features.feature[name], kind).value.extend(held)
    return bytes(example.SerializeToString())


@given(st.text(min_size=1), st.lists(INT64))
def test_integers_are_read_as_they_were_written(name: str, values: list[int]) -> None:
    assert ints_in(features(_example(name, int64_list=values))[name]) == values


@given(st.lists(FLOAT32))
def test_floats_are_read_as_they_were_written(values: list[float]) -> None:
    assert floats_in(features(_example("f", float_list=values))["f"]).tolist() == values


@given(st.binary())
def test_bytes_are_read_as_they_were_written(value: bytes) -> None:
    assert bytes_in(features(_example("image", bytes_list=[value]))["image"]) == value


def test_features_keep_their_names() -> None:
    example = tf_example_pb2.Example()
    for name in "image", "label", "objects/type":
        example.features.feature[name].int64_list.value.append(len(name))
    found = features(example.SerializeToString())
    assert {name: ints_in(value) for name, value in found.items()} == {
        "image": [5],
        "label": [5],
        "objects/type": [12],
    }


def test_values_that_are_not_packed_are_read_too() -> None:
    # {3: {1: 7, 1: -1}} and {2: {1: 1.5}}, each value a field of its own
    ints = b"\x08\x07\x08" + b"\xff" * 9 + b"\x01"
    assert ints_in(memoryview(b"\x1a" + bytes([len(ints)]) + ints)) == [7, -1]
    floats = b"\x0d" + struct.pack("<f", 1.5)
    assert floats_in(memoryview(b"\x12" + bytes([len(floats)]) + floats)).tolist() == [1.5]


@pytest.mark.parametrize("values", [[], [b"a", b"b"]])
def test_an_image_is_a_single_value(values: list[bytes]) -> None:
    found = features(_example("image", bytes_list=values))["image"]
    with pytest.raises(ValueError, match=f"{len(values)} values where one is expected"):
        bytes_in(found)


def test_a_list_of_another_kind_has_no_values() -> None:
    found = features(_example("label", bytes_list=[b"3"]))["label"]
    assert ints_in(found) == []
    assert floats_in(found).dtype == np.float32
    assert floats_in(found).size == 0


@given(st.binary(max_size=60))
def test_what_is_no_example_raises_value_error_or_gives_no_values(data: bytes) -> None:
    try:
        for found in features(data).values():
            ints_in(found)
            floats_in(found)
            bytes_in(found)
    except ValueError:
        pass  # and nothing else


@given(st.data())
def test_an_example_that_is_cut_short_is_refused(data: st.DataObject) -> None:
    example = _example("image", bytes_list=[b"0123456789" * 20])
    kept = data.draw(st.integers(1, len(example) - 1))
    with pytest.raises(ValueError, match=r"longer than its message|ends within a number"):
        bytes_in(features(example[:kept])["image"])

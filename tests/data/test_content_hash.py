import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from miniature.lists import noise
from pcvpt.data.content_hash import digest, encoded, name_of, split_hash
from pcvpt.data.splits import Item, Record
from pcvpt.errors import UsageError


def _file(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(0)).save(file, form)
    return file.getvalue()


def _record(held: bytes | NDArray[np.uint8]) -> Record:
    return Record([held], 0, "pets: record 0")


def test_a_file_is_given_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.JPEG"
    path.write_bytes(b"not even an image")
    assert encoded(path) == (b"not even an image", ".jpeg")


def test_a_file_with_a_foreign_suffix_is_named_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jp g"
    path.write_bytes(_file("PNG"))
    assert encoded(path) == (_file("PNG"), ".png")


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        ("JPEG", ".jpg"),
        ("PNG", ".png"),
        ("GIF", ".gif"),
        ("BMP", ".bmp"),
        ("TIFF", ".tif"),
        ("PPM", ".ppm"),
        ("WEBP", ".webp"),
    ],
)
def test_a_record_is_given_as_it_is_and_its_format_recognised(form: str, suffix: str) -> None:
    assert encoded(_record(_file(form))) == (_file(form), suffix)


@pytest.mark.parametrize("held", [b"", b"hello"])
def test_a_record_that_is_no_image_is_named(held: bytes) -> None:
    with pytest.raises(UsageError, match="pets: record 0: no image of a known format"):
        encoded(_record(held))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("in_store", [False, True])
def test_pixels_become_a_png_without_loss(shape: tuple[int, ...], in_store: bool) -> None:
    pixels = noise(0, shape)
    png, suffix = encoded(_record(pixels) if in_store else pixels)
    assert suffix == ".png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels)


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    assert digest(path) == digest(_record(b"abc")) == hashlib.sha256(b"abc").hexdigest()


def test_the_digest_of_pixels_depends_on_shape_and_values_not_on_memory_order() -> None:
    pixels = noise(0, (4, 6))
    assert digest(pixels) == digest(np.asfortranarray(pixels)) == digest(_record(pixels))
    assert digest(pixels) != digest(pixels.reshape(6, 4))
    assert digest(pixels) != digest(noise(1, (4, 6)))


def test_the_hash_of_a_split_depends_on_order_labels_and_content() -> None:
    items = [Item(noise(seed), seed % 2) for seed in range(3)]
    hashes = {
        split_hash(items),
        split_hash(items[::-1]),
        split_hash(items[:2]),
        split_hash([Item(items[0].source, 1), *items[1:]]),
        split_hash([Item(noise(9), 0), *items[1:]]),
    }
    assert len(hashes) == 5
    assert split_hash(items) == split_hash([Item(noise(seed), seed % 2) for seed in range(3)])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.jpg: cannot be read \(No such file"):
        digest(tmp_path / "none.jpg")


def test_images_are_called_by_file_or_record(tmp_path: Path) -> None:
    assert name_of(tmp_path) == str(tmp_path)
    assert name_of(_record(b"")) == "pets: record 0"
    assert name_of(noise(0)) == "an array"

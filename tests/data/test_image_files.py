import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from miniature.images import noise, write_noise
from pcvpt.data.image_files import (
    PassedOver,
    check_images,
    encoded,
    find_images,
    image_suffixes,
    load,
    name_of,
    size_of,
    to_rgb,
)
from pcvpt.data.splits import Record
from pcvpt.errors import UsageError


def _encode(form: str, shape: tuple[int, ...] = (16, 24, 3)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(0, shape)).save(file, form)
    return file.getvalue()


def _record(content: Any) -> Record:
    return Record([content], 0, "pets: record 0")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated.jpg", _encode("JPEG", (200, 200, 3))[:10_000]),
        ("truncated.png", _encode("PNG", (200, 200, 3))[:10_000]),
        ("empty.jpg", b""),
        ("text.jpg", b"no image"),
        ("missing.png", None),
    ],
)
def test_a_file_that_cannot_be_decoded_is_named(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    bad = tmp_path / name
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(UsageError, match=name):
        load(bad)
    good, tiny = write_noise(tmp_path / "good.jpg"), write_noise(tmp_path / "tiny.jpg", 0, (3, 1))
    with pytest.raises(UsageError, match=rf"^1 of 3 images(.|\n)*{name}"):
        check_images([good, bad, tiny])


def test_the_check_names_a_few_of_many(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^9 of 9 images(.|\n)*and 4 more$") as caught:
        check_images(tmp_path / f"{number}.jpg" for number in range(9))
    assert str(caught.value).count(".jpg:") == 5


@pytest.mark.parametrize("read", [load, size_of, encoded])
@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_record_that_is_no_image_is_named(read: Callable[[Any], Any], content: bytes) -> None:
    with pytest.raises(UsageError, match="pets: record 0: "):
        read(_record(content))


def _palette() -> Image.Image:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.fromarray(np.array([[25700]], np.uint16)), (100, 100, 100)),
        (Image.fromarray(np.array([[65535]], np.uint16)), (255, 255, 255)),
        (_palette(), (10, 20, 30)),
        (Image.new("RGBA", (1, 1), (200, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (1, 1), (200, 0, 0, 255)), (200, 0, 0)),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("L", (1, 1), 7), (7, 7, 7)),
    ],
)
def test_pixels_of_every_mode_become_rgb(image: Image.Image, colour: tuple[int, ...]) -> None:
    assert to_rgb(image).getpixel((0, 0)) == colour


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        to_rgb(Image.new("F", (1, 1)))


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = load(tmp_path / "turned.png")
    assert size_of(tmp_path / "turned.png") == (upright.height, upright.width) == (2, 1)
    assert upright.getpixel((0, 1)) == (255, 0, 0)


def test_images_are_found_at_any_depth_without_hidden_ones(tmp_path: Path) -> None:
    top, deep, *_ = (
        write_noise(tmp_path / name) for name in ("a b.png", "b/c/1.JPG", "._1.jpg", ".cache/1.jpg")
    )
    (tmp_path / "list.txt").touch()
    assert find_images(tmp_path, PassedOver()) == [top, deep]
    assert find_images(top, PassedOver()) == [top]


def test_every_ending_that_pillow_can_read_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {".jfif", ".tga", ".jp2", ".pbm", ".mpo", ".ico", ".avif"}
    assert some <= image_suffixes()
    assert not {".pdf", ".h5", ".mpg", ".eps", ".heic"} & image_suffixes()
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])  # as plug-ins do
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    assert ".heic" in image_suffixes()


def test_a_file_is_copied_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.JPEG").write_bytes(b"not even an image")
    (tmp_path / "a.jp g").write_bytes(_encode("PNG"))
    assert encoded(tmp_path / "a.JPEG") == (b"not even an image", ".jpeg")
    assert encoded(tmp_path / "a.jp g") == (_encode("PNG"), ".png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".tif", ".ppm", ".webp"])
def test_the_format_of_a_record_is_recognised(suffix: str) -> None:
    content = _encode(Image.registered_extensions()[suffix])
    assert encoded(_record(content)) == (content, suffix)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("wrapped", [lambda pixels: pixels, _record])
def test_pixels_become_a_png_without_loss(
    shape: tuple[int, ...], wrapped: Callable[[Any], Any]
) -> None:
    png, suffix = encoded(wrapped(noise(0, shape)))
    assert suffix == ".png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), noise(0, shape))


def test_images_have_the_name_of_their_file_or_record(tmp_path: Path) -> None:
    names = [name_of(source) for source in (tmp_path, _record(b""), noise(0))]
    assert names == [str(tmp_path), "pets: record 0", "an array"]

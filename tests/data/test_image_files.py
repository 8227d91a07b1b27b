import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from miniature.images import noise
from pcvpt.data.image_files import (
    check_images,
    encoded,
    find_images,
    load,
    name_of,
    size_of,
    to_rgb,
)
from pcvpt.data.splits import Record
from pcvpt.errors import UsageError

WriteImage = Callable[..., Path]
CLOCKWISE = Image.Exif()
CLOCKWISE[0x0112] = 6  # the image is to be turned clockwise


def _encode(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(0)).save(file, form)
    return file.getvalue()


def _record(content: bytes | NDArray[np.uint8]) -> Record:
    return Record([content], 0, "pets: record 0")


@pytest.fixture(params=["truncated.jpg", "truncated.png", "empty.jpg", "text.jpg", "missing.png"])
def bad_file(request: pytest.FixtureRequest, tmp_path: Path, write_image: WriteImage) -> Path:
    path = tmp_path / str(request.param)
    if path.stem == "truncated":
        write_image(path, size=(200, 200))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif path.stem != "missing":
        path.write_text("" if path.stem == "empty" else "no image")
    return path


def test_a_file_that_cannot_be_decoded_is_named(bad_file: Path) -> None:
    with pytest.raises(UsageError, match=bad_file.name):
        load(bad_file)


def test_the_check_finds_what_decoding_would(bad_file: Path, write_image: WriteImage) -> None:
    good = write_image(bad_file.parent / "good.jpg")
    tiny = write_image(bad_file.parent / "tiny.jpg", size=(1, 3))
    with pytest.raises(UsageError, match=rf"^1 of 3 images(.|\n)*{bad_file.name}"):
        check_images([good, bad_file, tiny])


def test_the_check_names_a_few_of_many(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^9 of 9 images(.|\n)*and 4 more$") as caught:
        check_images(tmp_path / f"{number}.jpg" for number in range(9))
    assert str(caught.value).count(".jpg:") == 5


@pytest.mark.parametrize("read", [load, size_of])
def test_a_record_that_is_no_image_is_named(read: Callable[[Record], object]) -> None:
    with pytest.raises(UsageError, match="pets: record 0: cannot be decoded"):
        read(_record(b"no image"))


def _palette() -> Image.Image:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


def _transparent() -> Image.Image:
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    return image


@pytest.mark.parametrize(
    ("image", "row"),
    [
        (
            Image.fromarray(np.array([[0, 25700, 65535]], np.uint16)),
            [[0] * 3, [100] * 3, [255] * 3],
        ),
        (_palette(), [[10, 20, 30]]),
        (_transparent(), [[255] * 3, [0] * 3]),
    ],
    ids=["16-bit grey keeps its range", "a palette has colours", "transparent becomes white"],
)
def test_any_image_becomes_rgb(image: Image.Image, row: list[list[int]], tmp_path: Path) -> None:
    image.save(tmp_path / "image.png")
    assert np.asarray(load(tmp_path / "image.png"))[0].tolist() == row


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    red, green, blue = np.asarray(load(tmp_path / "cmyk.jpg"))[8, 8].tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_grey_arrays_become_rgb() -> None:
    assert load(np.full((2, 2), 7, np.uint8)).getpixel((0, 0)) == (7, 7, 7)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="no agreed range"):
        to_rgb(Image.new("F", (1, 1)))


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0))
    image.save(tmp_path / "turned.png", exif=CLOCKWISE)
    upright = load(tmp_path / "turned.png")
    assert size_of(tmp_path / "turned.png") == (upright.height, upright.width) == (2, 1)
    assert upright.getpixel((0, 1)) == (255, 0, 0)


def test_images_are_found_at_any_depth_without_hidden_ones(
    tmp_path: Path, write_image: WriteImage
) -> None:
    deep = write_image(tmp_path / "b" / "c" / "1.JPG")
    top = write_image(tmp_path / "a b.png")
    for name in ("._1.jpg", ".cache/1.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "list.txt").touch()
    assert find_images(tmp_path) == [top, deep]
    assert find_images(top) == [top]


def test_a_file_is_copied_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.JPEG").write_bytes(b"not even an image")
    (tmp_path / "a.jp g").write_bytes(_encode("PNG"))
    assert encoded(tmp_path / "a.JPEG") == (b"not even an image", ".jpeg")
    assert encoded(tmp_path / "a.jp g") == (_encode("PNG"), ".png")


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
def test_the_format_of_a_record_is_recognised(form: str, suffix: str) -> None:
    assert encoded(_record(_encode(form))) == (_encode(form), suffix)


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_record_of_an_unknown_format_is_named(content: bytes) -> None:
    with pytest.raises(UsageError, match="pets: record 0: no image of a known format"):
        encoded(_record(content))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("in_store", [False, True])
def test_pixels_become_a_png_without_loss(shape: tuple[int, ...], in_store: bool) -> None:
    pixels = noise(0, shape)
    png, suffix = encoded(_record(pixels) if in_store else pixels)
    assert suffix == ".png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels)


def test_images_have_the_name_of_their_file_or_record(tmp_path: Path) -> None:
    assert name_of(tmp_path) == str(tmp_path)
    assert name_of(_record(b"")) == "pets: record 0"
    assert name_of(noise(0)) == "an array"

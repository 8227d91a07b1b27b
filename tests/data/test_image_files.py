import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm"}


def _encode(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(0)).save(file, form)
    return file.getvalue()


def _record(content: Any) -> Record:
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


def test_a_file_that_cannot_be_decoded_is_named(bad_file: Path, write_image: WriteImage) -> None:
    with pytest.raises(UsageError, match=bad_file.name):
        load(bad_file)
    good = write_image(bad_file.parent / "good.jpg")
    tiny = write_image(bad_file.parent / "tiny.jpg", size=(1, 3))
    with pytest.raises(UsageError, match=rf"^1 of 3 images(.|\n)*{bad_file.name}"):
        check_images([good, bad_file, tiny])


def test_the_check_names_a_few_of_many(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^9 of 9 images(.|\n)*and 4 more$") as caught:
        check_images(tmp_path / f"{number}.jpg" for number in range(9))
    assert str(caught.value).count(".jpg:") == 5


@pytest.mark.parametrize("read", [load, size_of, encoded])
@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_record_that_is_no_image_is_named(read: Callable[[Any], Any], content: bytes) -> None:
    with pytest.raises(UsageError, match="pets: record 0: "):
        read(_record(content))


def test_sixteen_bit_grey_keeps_its_range() -> None:
    image = to_rgb(Image.fromarray(np.array([[0, 25700, 65535]], np.uint16)))
    assert np.asarray(image)[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


def test_a_palette_becomes_its_colours() -> None:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert to_rgb(image).getpixel((0, 0)) == (10, 20, 30)


def test_transparent_pixels_become_white() -> None:
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    assert np.asarray(to_rgb(image))[0].tolist() == [[255] * 3, [0] * 3]


def test_cmyk_and_grey_become_rgb() -> None:
    cmyk = Image.new("CMYK", (1, 1), (0, 255, 255, 0))
    assert to_rgb(cmyk).getpixel((0, 0)) == (255, 0, 0)
    assert load(np.full((2, 2), 7, np.uint8)).getpixel((0, 0)) == (7, 7, 7)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="no agreed range"):
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


def test_images_are_found_at_any_depth_without_hidden_ones(
    tmp_path: Path, write_image: WriteImage
) -> None:
    top, deep = (write_image(tmp_path / name) for name in ("a b.png", "b/c/1.JPG"))
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


@pytest.mark.parametrize(("form", "suffix"), [*SUFFIXES.items(), ("WEBP", "webp")])
def test_the_format_of_a_record_is_recognised(form: str, suffix: str) -> None:
    assert encoded(_record(_encode(form))) == (_encode(form), f".{suffix}")


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

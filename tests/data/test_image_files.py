from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcvpt.data.image_files import check_images, find_images, load, open_image, to_rgb
from pcvpt.errors import UsageError

WriteImage = Callable[..., Path]


def _truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture(params=["truncated.jpg", "truncated.png", "zero.jpg", "text.jpg", "missing.png"])
def bad_file(request: pytest.FixtureRequest, tmp_path: Path, write_image: WriteImage) -> Path:
    path = tmp_path / str(request.param)
    if path.stem == "truncated":
        return _truncate(write_image(path, size=(200, 200)))
    if path.stem != "missing":
        path.write_text("" if path.stem == "zero" else "no image")
    return path


def test_a_file_that_cannot_be_decoded_is_named(bad_file: Path) -> None:
    with pytest.raises(UsageError, match=bad_file.name):
        open_image(bad_file)


def test_the_check_finds_what_decoding_would(bad_file: Path, write_image: WriteImage) -> None:
    good = write_image(bad_file.parent / "good.jpg")
    with pytest.raises(UsageError, match=rf"^1 of 2 images(.|\n)*{bad_file.name}"):
        check_images([good, bad_file])


def test_the_check_names_a_few_of_many(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_images(tmp_path / f"{number}.jpg" for number in range(9))
    assert str(caught.value).startswith("9 of 9 images")
    assert str(caught.value).count(".jpg:") == 5
    assert str(caught.value).endswith("and 4 more")


def test_the_check_passes_tiny_images(tmp_path: Path, write_image: WriteImage) -> None:
    check_images([write_image(tmp_path / "tiny.jpg", size=(1, 3))])


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)).save(tmp_path / "16.png")
    assert np.asarray(open_image(tmp_path / "16.png"))[0].tolist() == [
        [0] * 3,
        [100] * 3,
        [255] * 3,
    ]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    red, green, blue = np.asarray(open_image(tmp_path / "cmyk.jpg"))[8, 8].tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "palette.png")
    assert open_image(tmp_path / "palette.png").getpixel((0, 0)) == (10, 20, 30)


def test_transparent_pixels_show_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.save(tmp_path / "alpha.png")
    assert np.asarray(open_image(tmp_path / "alpha.png"))[0].tolist() == [[255] * 3, [0] * 3]


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    image.save(tmp_path / "turned.png", exif=exif)
    upright = open_image(tmp_path / "turned.png")
    assert upright.size == (1, 2)
    assert upright.getpixel((0, 1)) == (255, 0, 0)


def test_grey_arrays_become_rgb() -> None:
    assert load(np.full((2, 2), 7, np.uint8)).getpixel((0, 0)) == (7, 7, 7)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="no agreed range"):
        to_rgb(Image.new("F", (1, 1)))


def test_images_are_found_at_any_depth_without_hidden_ones(
    tmp_path: Path, write_image: WriteImage
) -> None:
    deep = write_image(tmp_path / "b" / "c" / "1.JPG")
    top = write_image(tmp_path / "a b.png")
    for name in ("._1.jpg", ".cache/1.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "list.txt").touch()
    assert find_images(tmp_path) == [top, deep]

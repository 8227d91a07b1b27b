"""Image files: finding them, their stored content, and decoding to upright 8-bit RGB images."""

import io
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pcvpt.data.splits import Record, Source
from pcvpt.errors import UsageError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)

_FIRST_BYTES = {
    rb"\xff\xd8\xff": ".jpg",
    rb"\x89PNG\r\n\x1a\n": ".png",
    rb"GIF8": ".gif",
    rb"BM": ".bmp",
    rb"II\*\0|MM\0\*": ".tif",
    rb"P5": ".pgm",
    rb"P6": ".ppm",
    rb"RIFF.{4}WEBP": ".webp",
}
_MAX_NAMED = 5  # faulty files that an error lists


def find_images(path: Path) -> list[Path]:
    """List the image files in a folder, at any depth, in the order of their names.

    Hidden files and folders, such as those that macOS writes, are left out. If ``path`` is a file,
    the list holds that file alone.

    Raises:
        UsageError: If a folder does not exist or cannot be read.
    """
    if path.is_file():
        return [path]
    found: list[Path] = []
    for parent, subfolders, names in os.walk(path, onerror=refuse_folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    images = (path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(images, key=Path.as_posix)


def refuse_folder(error: OSError) -> NoReturn:
    """Raise a UsageError that names the folder of ``error``."""
    raise UsageError(
        f"{error.filename}: {error.strerror}; give an existing folder that may be read"
    ) from error


def name_of(source: Source) -> str:
    """Return the name of an image for a message: its file, its record, or ``an array``."""
    if isinstance(source, Path):
        return str(source)
    return source.name if isinstance(source, Record) else "an array"


def stored(source: Source) -> bytes | NDArray[np.uint8]:
    """Return an image as it is stored: the bytes of an image file, or pixels.

    Raises:
        UsageError: If the file or record cannot be read. The error names it.
    """
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, Record):
        return source.read()
    try:
        return source.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{source}: cannot be read ({error.strerror}); replace the file or allow reading it"
        ) from error


def encoded(source: Source) -> tuple[bytes, str]:
    """Return an image as the bytes of an image file and the suffix of that file, without loss.

    The bytes of a file or record are not changed, and need not be decodable. Pixels become a PNG.

    Raises:
        UsageError: If the file or record cannot be read or has an unknown format. The error names
            it.
    """
    content = stored(source)
    if isinstance(content, np.ndarray):
        png = io.BytesIO()
        Image.fromarray(content).save(png, "PNG")
        return png.getvalue(), ".png"
    if isinstance(source, Path) and source.suffix.lower() in IMAGE_SUFFIXES:
        return content, source.suffix.lower()
    for pattern, suffix in _FIRST_BYTES.items():
        if re.match(pattern, content, re.DOTALL):
            return content, suffix
    raise UsageError(
        f"{name_of(source)}: no image of a known format (its first bytes are {content[:8]!r}); "
        "get the data again"
    )


def load(source: Source) -> Image.Image:
    """Decode an image to upright RGB.

    Raises:
        UsageError: If the file or record cannot be read or decoded. The error names it.
    """
    content = source if isinstance(source, Path) else stored(source)
    if isinstance(content, np.ndarray):
        return to_rgb(Image.fromarray(content))
    fault, image = _decode(content, smallest=False)
    if image is None:
        remedy = "replace or remove it" if isinstance(source, Path) else "get the data again"
        raise UsageError(f"{name_of(source)}: cannot be decoded ({fault}); {remedy}")
    return image


def size_of(source: Source) -> tuple[int, int]:
    """Return (height, width) of the upright image in pixels; of a file, its header is enough.

    Raises:
        UsageError: If the file or record is not an image. The error names it.
    """
    content = source if isinstance(source, Path) else stored(source)
    if isinstance(content, np.ndarray):
        return content.shape[0], content.shape[1]
    try:
        with _opened(content) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # as for _decode
        raise UsageError(
            f"{name_of(source)}: cannot be decoded ({error}); replace or remove it"
        ) from error


def check_images(paths: Iterable[Path]) -> None:
    """Decode every file once, so that a bad one ends a run before its training, not during it.

    Raises:
        UsageError: If files cannot be decoded. One error gives the number of bad files and lists
            the first few with their faults.
    """
    paths = list(paths)
    with ThreadPoolExecutor() as pool:  # decoders release the interpreter lock
        faults = list(pool.map(lambda path: _decode(path, smallest=True)[0], paths))
    bad = [f"  {path}: {fault}" for path, fault in zip(paths, faults, strict=True) if fault]
    if bad:
        raise UsageError(
            f"{len(bad)} of {len(paths)} images cannot be decoded; replace or remove them:\n"
            + first_few(bad)
        )


def first_few(lines: list[str]) -> str:
    """Join the first lines of a list in an error, and count the others."""
    more = [f"  and {len(lines) - _MAX_NAMED} more"] if len(lines) > _MAX_NAMED else []
    return "\n".join(lines[:_MAX_NAMED] + more)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn ``image`` to its EXIF orientation and convert it to 8-bit RGB.

    16-bit grey is scaled by its full range (Pillow by itself clips at 255). Transparent pixels
    become white, not the arbitrary colour stored beneath.

    Raises:
        ValueError: If the pixels are floating-point numbers, which have no agreed range.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.float64).clip(0, 65535)
        image = Image.fromarray(np.rint(wide / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _opened(content: Path | bytes) -> Image.Image:
    return Image.open(content if isinstance(content, Path) else io.BytesIO(content))


def _decode(content: Path | bytes, smallest: bool) -> tuple[str, Image.Image | None]:
    """Return (fault, image), one of them empty; ``smallest`` decodes JPEG at 1/8 of its size."""
    try:
        with _opened(content) as image:
            if smallest:  # still reads the whole file, so truncation is found
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            return "", to_rgb(image)
    except UnidentifiedImageError:
        return "not an image of any known format", None
    except Exception as error:  # decoders raise nearly anything on damaged files
        return str(error) or type(error).__name__, None

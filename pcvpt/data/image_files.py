"""Image files: where they are, and from a file or an array to an upright 8-bit RGB image."""

import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pcvpt.data.splits import Record, Source
from pcvpt.errors import UsageError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)

_NAMED = 5  # faulty files that an error lists


def find_images(path: Path) -> list[Path]:
    """List the image files in a folder, at any depth, in the order of their names.

    Hidden files and folders, such as those that macOS writes, are left out. A path of a file is
    returned as the only one.

    Raises:
        UsageError: If a folder does not exist or cannot be read.
    """
    if path.is_file():
        return [path]
    found: list[Path] = []
    for parent, subfolders, names in os.walk(path, onerror=refuse_folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return sorted(found, key=Path.as_posix)


def refuse_folder(error: OSError) -> NoReturn:
    """Raise a UsageError that names the folder which cannot be read."""
    raise UsageError(
        f"{error.filename}: {error.strerror}; give an existing folder that may be read"
    ) from error


def open_image(path: Path) -> Image.Image:
    """Decode ``path`` to an upright RGB image.

    Raises:
        UsageError: naming the file, whatever is wrong with it.
    """
    fault, image = _decode(path, smallest=False)
    if image is None:
        raise UsageError(f"{path}: cannot be decoded ({fault}); replace or remove it")
    return image


def load(source: Source) -> Image.Image:
    """Return the image of a task's item as upright RGB.

    Raises:
        UsageError: naming the file or the record, whatever is wrong with it.
    """
    if isinstance(source, Path):
        return open_image(source)
    if isinstance(source, np.ndarray):
        return to_rgb(Image.fromarray(source))
    held = source.read()
    if isinstance(held, np.ndarray):
        return to_rgb(Image.fromarray(held))
    fault, image = _decode(io.BytesIO(held), smallest=False)
    if image is None:
        raise UsageError(f"{source.name}: cannot be decoded ({fault}); get the data anew")
    return image


def size_of(source: Source) -> tuple[int, int]:
    """Return (height, width) of the upright image, from its header where it is a file.

    Raises:
        UsageError: naming the file or the record, if it is no image.
    """
    held = source.read() if isinstance(source, Record) else source
    if isinstance(held, np.ndarray):
        return held.shape[0], held.shape[1]
    try:
        with Image.open(held if isinstance(held, Path) else io.BytesIO(held)) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # as for _decode
        name = source.name if isinstance(source, Record) else source
        raise UsageError(f"{name}: cannot be decoded ({error}); replace or remove it") from error


def check_images(paths: Iterable[Path]) -> None:
    """Decode every file once, so that a bad one is met before training and not in its midst.

    Raises:
        UsageError: one for all, with the number of bad files, the first few, and what ails them.
    """
    paths = list(paths)
    with ThreadPoolExecutor() as pool:  # decoders release the interpreter lock
        faults = list(pool.map(lambda path: _decode(path, smallest=True)[0], paths))
    bad = [f"  {path}: {fault}" for path, fault in zip(paths, faults, strict=True) if fault]
    if bad:
        more = [f"  and {len(bad) - _NAMED} more"] if len(bad) > _NAMED else []
        lines = "\n".join(bad[:_NAMED] + more)
        raise UsageError(
            f"{len(bad)} of {len(paths)} images cannot be decoded; replace or remove them:\n{lines}"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn ``image`` as its EXIF orientation says and convert it to 8-bit RGB.

    16-bit grey is scaled by its full range (Pillow by itself clips at 255); transparent pixels
    show white, not the arbitrary colour stored beneath.

    Raises:
        ValueError: for floating-point pixels, which have no agreed range.
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


def _decode(path: Path | io.BytesIO, smallest: bool) -> tuple[str, Image.Image | None]:
    """Return (fault, image), one of them empty; ``smallest`` decodes JPEG at 1/8 size."""
    try:
        with Image.open(path) as image:
            if smallest:  # still reads the whole file, so truncation shows
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            return "", to_rgb(image)
    except UnidentifiedImageError:
        return "not an image of any known format", None
    except Exception as error:  # decoders raise nearly anything on damaged files
        return str(error) or type(error).__name__, None

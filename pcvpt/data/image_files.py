"""Image files: finding them, their stored content, and decoding to upright 8-bit RGB images.

A file or record that cannot be read or decoded is a ``UsageError`` that names it.
"""

import io
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pcvpt.data.splits import Record, Source
from pcvpt.errors import UsageError

with suppress(ImportError):  # reads .heic, where the user has installed it
    import pillow_heif.HeifImagePlugin  # type: ignore[import-not-found]  # noqa: F401

PassedOver = Counter[tuple[str, str]]
"""Number of the files that are not read, by the reason and what they are, mostly an ending."""

# Pillow only recognises these, or needs another program to read them.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}  # of formats not called like their files
_MAX_NAMED = 5  # faulty files that an error lists
_AT_ONCE = 1024  # results that wait to be taken

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")


def image_suffixes() -> set[str]:
    """Return the endings of the files that Pillow can read with its plug-ins, such as ``.jpg``."""
    registered = Image.registered_extensions()
    readable = {"MPO", *Image.OPEN} - _NOT_READ  # the reader of JPEG opens MPO
    return {suffix for suffix, form in registered.items() if form in readable}


def find_images(path: Path, passed_over: PassedOver) -> list[Path]:
    """List the image files in a folder, at any depth, in the order of their names.

    Hidden files and folders, such as those that macOS writes, are left out. Each real folder is
    read once: a link is not followed to a folder that is read anyway, or that holds ``path``. If
    ``path`` is a file, the list holds that file alone. What is not read is added to
    ``passed_over``. A folder that cannot be read is a ``UsageError``.
    """
    if path.is_file():
        return [path]
    images: list[Path] = []
    suffixes, base, seen = image_suffixes(), Path(os.path.realpath(path)), set[Path]()
    for parent, subfolders, names in os.walk(path, onerror=refuse_folder, followlinks=True):
        folder, real = Path(parent), Path(os.path.realpath(parent))
        linked = real != base / folder.relative_to(path)
        if real in seen or (linked and (real.is_relative_to(base) or base.is_relative_to(real))):
            subfolders.clear()
            passed_over["already read", "links to folders"] += 1
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in (folder / name for name in names if not name.startswith(".")):
            suffix = file.suffix.lower()
            if suffix in suffixes:
                images.append(file)
            elif suffix in (".heic", ".heif"):
                passed_over["pip install pillow-heif to read them", suffix] += 1
            else:
                passed_over["Pillow reads no such files", suffix or "without ending"] += 1
    return sorted(images, key=Path.as_posix)


def given_images(given: str) -> tuple[list[Path], str]:
    """Return the images that a user names, and one line on files that were not read.

    ``given`` is a file, a folder (see :func:`find_images`), a list ``.txt`` with a path in each
    line, relative to the folder of the list, or ``-`` for such a list on standard input.
    """
    path, passed_over = Path(given).expanduser(), PassedOver()
    if given != "-" and path.suffix != ".txt":
        paths = find_images(path, passed_over)
    else:
        with named_errors(path, "give a list of paths"):
            text = sys.stdin.read() if given == "-" else path.read_text("utf-8")
        paths = [path.parent / line for line in map(str.strip, text.splitlines()) if line]
    if not paths:
        raise UsageError(f"{given}: no images here; give an image, a folder, or a list of paths")
    return paths, tell_passed_over(path, passed_over)


def tell_passed_over(folder: Path, passed_over: PassedOver) -> str:
    """Return one line on the files that were not read. Empty if there are none."""
    reasons = defaultdict(list)
    for (reason, kind), count in passed_over.most_common():
        reasons[reason].append(f"{count:,} {kind}")
    told = (f"{', '.join(kinds[:_MAX_NAMED])} ({reason})" for reason, kinds in reasons.items())
    return f"{folder}: passed over {'; '.join(told)}" if passed_over else ""


def refuse_folder(error: OSError) -> NoReturn:
    """Raise a UsageError that names the folder of ``error``."""
    raise UsageError(
        f"{error.filename}: {error.strerror}; give an existing folder that may be read"
    ) from error


@contextmanager
def named_errors(path: Path, remedy: str = "get it again") -> Iterator[None]:
    """Turn any error in reading ``path`` into a ``UsageError`` that names it and the remedy."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # readers raise nearly anything on damaged files
        fault = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: cannot be read ({fault}); {remedy}") from error


def names_in(
    folder: Path, suffix: str | None = None, remedy: str = "get the data set again"
) -> list[str]:
    """Return the sorted names of the files with ``suffix``, or of the folders if it is None.

    Hidden ones, such as macOS leaves behind, are left out. If there are none, or the folder cannot
    be read, a ``UsageError`` names it and the ``remedy``.
    """
    with named_errors(folder, remedy), os.scandir(folder) as entries:
        found = [
            each.name
            for each in entries
            if each.name[0] != "."
            and each.is_dir() == (suffix is None)
            and each.name.endswith(suffix or "")
        ]
    if not found:
        raise UsageError(f"{folder}: no {suffix or 'folders'} in it; {remedy}")
    return sorted(found)


def printable(name: str | Path) -> str:
    """Return the name of a file as text; bytes that are not UTF-8 are written as hexadecimals."""
    return os.fsencode(name).decode(errors="backslashreplace")


def name_of(source: Source) -> str:
    """Return the name of an image for a message: its file, its record, or ``an array``."""
    if isinstance(source, np.ndarray):
        return "an array"
    return printable(str(source))


def stored(source: Source) -> bytes | NDArray[np.uint8]:
    """Return an image as it is stored: the bytes of an image file, or pixels."""
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, Record):
        return source.store[source.index]
    with named_errors(source, "replace the file or allow reading it"):
        return source.read_bytes()


def encoded(source: Source) -> tuple[bytes, str]:
    """Return an image as the bytes of an image file and the suffix of that file, without loss.

    The bytes of a file or record are not changed, and need not be decodable. Pixels become a PNG.
    """
    content = stored(source)
    if isinstance(content, np.ndarray):
        png = io.BytesIO()
        Image.fromarray(content).save(png, "PNG")
        return png.getvalue(), ".png"
    if isinstance(source, Path) and source.suffix.lower() in image_suffixes():
        return content, source.suffix.lower()
    with _opened(source) as image:
        form = str(image.format)
    return content, _SUFFIXES.get(form, f".{form.lower()}")


def load(source: Source) -> Image.Image:
    """Decode an image to upright RGB."""
    with _opened(source) as image:
        return to_rgb(image)


def size_of(source: Source) -> tuple[int, int]:
    """Return (height, width) of the upright image in pixels; of a file, its header is enough."""
    with _opened(source) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)


@contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """Open an image; raise a UsageError that names it if that, or what is done with it, fails."""
    content = source if isinstance(source, Path) else stored(source)
    try:
        if isinstance(content, np.ndarray):
            yield Image.fromarray(content)
            return
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            yield image
    except Exception as error:  # decoders raise nearly anything on damaged files
        known = not isinstance(error, UnidentifiedImageError)
        fault = str(error) or type(error).__name__ if known else "not an image of any known format"
        remedy = "replace or remove it" if isinstance(source, Path) else "get the data again"
        raise UsageError(f"{name_of(source)}: cannot be decoded ({fault}); {remedy}") from error


def check_images(paths: Iterable[Path]) -> None:
    """Decode every file once, so that a bad one ends a run before its training, not during it.

    One ``UsageError`` gives the number of files that cannot be decoded, and the first few faults.
    """
    paths = list(paths)
    bad = [f"  {fault}" for fault in in_threads(_fault, paths) if fault]
    if bad:
        raise UsageError(
            f"{len(bad)} of {len(paths)} images cannot be decoded; replace or remove them:\n"
            + first_few(bad)
        )


def _fault(path: Path) -> str:
    try:
        with _opened(path) as image:
            # JPEG is decoded at 1/8 of its size. The whole file is read, so truncation is found.
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            to_rgb(image)
    except UsageError as error:
        return str(error).rpartition(";")[0]
    return ""


def in_threads(
    function: Callable[[_Given], _Result], items: Sequence[_Given], jobs: int | None = None
) -> Iterator[_Result]:
    """Yield ``function`` of each item, in order; decoders and hashes release Python's lock."""
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(items), _AT_ONCE):
            yield from pool.map(function, items[start : start + _AT_ONCE])


def first_few(lines: list[str]) -> str:
    """Join the first lines of a list in an error, and count the others."""
    more = [f"  and {len(lines) - _MAX_NAMED} more"] if len(lines) > _MAX_NAMED else []
    return "\n".join(lines[:_MAX_NAMED] + more)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn ``image`` to its EXIF orientation and convert it to 8-bit RGB.

    16-bit grey is scaled by its full range (Pillow by itself clips at 255). Transparent pixels
    become white, not the arbitrary colour stored beneath.

    Floating-point pixels, which have no agreed range, are a ``ValueError``.
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

"""The content of an item's image: its bytes as they are stored, and hashes over them."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcvpt.data.image_files import IMAGE_SUFFIXES
from pcvpt.data.splits import Item, Source
from pcvpt.errors import UsageError

_MAGIC = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"P5", ".pgm"),
    (b"P6", ".ppm"),
)


def encoded(source: Source) -> tuple[bytes, str]:
    """Return the image as the bytes of an image file, and that file's suffix; nothing is lost.

    Bytes of a file or record are given as they are, whether or not they can be decoded. Pixels
    become a PNG.

    Raises:
        UsageError: naming the file or record that cannot be read, or whose format is unknown.
    """
    held = _held(source)
    if isinstance(held, np.ndarray):
        png = io.BytesIO()
        Image.fromarray(held).save(png, "PNG")
        return png.getvalue(), ".png"
    if isinstance(source, Path) and source.suffix.lower() in IMAGE_SUFFIXES:
        return held, source.suffix.lower()
    for magic, suffix in _MAGIC:
        if held.startswith(magic):
            return held, suffix
    if held[:4] == b"RIFF" and held[8:12] == b"WEBP":
        return held, ".webp"
    raise UsageError(
        f"{name_of(source)}: no image of a known format (its first bytes are {held[:8]!r}); "
        "get the data anew"
    )


def digest(source: Source) -> str:
    """Return the SHA-256 of the image's stored bytes in hex; of pixels, with their shape.

    Equal digests mean equal images. The converse holds within one layout only: the same image as
    pixels, PNG and JPEG has three digests.

    Raises:
        UsageError: naming the file or record that cannot be read.
    """
    held = _held(source)
    if isinstance(held, np.ndarray):
        held = f"pixels {held.shape}\n".encode() + np.ascontiguousarray(held).tobytes()
    return hashlib.sha256(held).hexdigest()


def split_hash(items: Iterable[Item]) -> str:
    """Return one hash for the order, labels and contents of ``items``; see ``digest``."""
    return combine((item.label, digest(item.source)) for item in items)


def combine(pairs: Iterable[tuple[int, str]]) -> str:
    """Return the ``split_hash`` of items of which label and digest are known."""
    hashed = hashlib.sha256()
    for label, content in pairs:
        hashed.update(f"{label} {content}\n".encode())
    return hashed.hexdigest()


def name_of(source: Source) -> str:
    """Return what to call an image in a message."""
    if isinstance(source, Path):
        return str(source)
    return "an array" if isinstance(source, np.ndarray) else source.name


def _held(source: Source) -> bytes | NDArray[np.uint8]:
    if isinstance(source, np.ndarray):
        return source
    if not isinstance(source, Path):
        return source.read()
    try:
        return source.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{source}: cannot be read ({error.strerror}); replace the file or allow reading it"
        ) from error

"""Synthetic images that are as large as photographs and about as hard to decode."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_photograph(path: Path, draw: np.random.Generator, size: tuple[int, int]) -> None:
    """Write a JPEG of ``size`` (width, height): smooth patches of colour under some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    noise = draw.integers(-20, 21, (*smooth.shape[:2], 1))
    pixels = (smooth + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=85)


def write_vtab(folder: Path, classes: int, counts: dict[str, int], size: tuple[int, int]) -> None:
    """Write a task of VTAB-1k as list files.

    Args:
        folder: Folder of the task.
        classes: Number of classes. The images take them in turn.
        counts: Number of images in ``train800``, ``val200`` and ``test``.
        size: Width and height of every image.
    """
    draw = np.random.default_rng(0)
    for name, count in counts.items():
        lines = []
        for number in range(count):
            path = f"images/{name}/{number:06}.jpg"
            write_photograph(folder / path, draw, size)
            lines.append(f"{path} {number % classes}\n")
        (folder / f"{name}.txt").write_text("".join(lines))
    both = [(folder / f"{name}.txt").read_text() for name in ("train800", "val200")]
    (folder / "train800val200.txt").write_text("".join(both))

"""Miniature images, folders and lists, written anew for each test."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcvpt.data import InputSpec


def _write_image(path: Path, seed: int = 0, size: tuple[int, int] = (24, 16)) -> Path:
    """Write noise of (width, height) ``size``; noise fills a JPEG, so that halves are truncated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def write_image() -> Callable[..., Path]:
    return _write_image


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``train`` and ``test`` of the classes ant (12 and 2), bee (6 and 2) and cat (2 and 2)."""
    root = tmp_path / "animals"
    seeds = itertools.count()  # no two images are the same
    for name, count in ("cat", 2), ("ant", 12), ("bee", 6):
        for number in range(count):
            _write_image(root / "train" / name / f"{number:02}.jpg", next(seeds))
        for number in range(2):
            _write_image(root / "test" / name / f"{number:02}.jpg", next(seeds))
    return root


@pytest.fixture
def spec() -> InputSpec:
    return InputSpec(image_size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

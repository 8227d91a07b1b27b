"""Images in class folders, and the spec of a small backbone."""

import itertools
from pathlib import Path

import pytest

from miniature.images import write_noise
from pcvpt.data import InputSpec


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``train`` and ``test`` of the classes ant (12 and 2), bee (6 and 2) and cat (2 and 2)."""
    root = tmp_path / "animals"
    seeds = itertools.count()  # no two images are the same
    for name, count in ("cat", 2), ("ant", 12), ("bee", 6):
        for split, images in ("train", count), ("test", 2):
            for number in range(images):
                write_noise(root / split / name / f"{number:02}.jpg", next(seeds))
    return root


@pytest.fixture
def spec() -> InputSpec:
    return InputSpec(image_size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

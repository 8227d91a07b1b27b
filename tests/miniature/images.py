"""Images of noise, no two alike for different seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(seed: int, shape: Sequence[int] = (16, 24, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_noise(path: Path, seed: int = 0, shape: Sequence[int] = (16, 24, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, shape)).save(path)
    return path

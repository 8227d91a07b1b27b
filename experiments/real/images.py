"""Get the images of these experiments as folders of files; print where they are.

    python experiments/real/images.py

``grocery``: the Grocery Store images (Klasson et al., WACV 2019; MIT), 14 classes of fruit,
photographed in shops; see ``../dinov2_small/prepare.py``. ``cifar_turned``, ``fashion_turned``: by
which quarter turn was an image turned? 2,200 of CIFAR-10's, or Fashion-MNIST's, 10,000 test images,
none of which the backbone was pretrained on, in four classes: a task about structure, on which
features that were learnt for objects are weak.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from assets import CACHE, Array, cifar10, fashion_mnist

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "dinov2_small"))
from prepare import prepare

SIZES = {"train": 1000, "val": 200, "test": 1000}


def grocery() -> Path:
    """Return the folder of the Grocery Store images, made on the first call."""
    return prepare()[1]


def cifar_turned() -> Path:
    """Return the folder of turned CIFAR-10 images, made on the first call."""
    folder = CACHE / "cifar10" / "rotation"
    return folder if folder.exists() else _turned(cifar10()[2], folder)


def fashion_turned() -> Path:
    """Return the folder of turned Fashion-MNIST images, made on the first call."""
    folder = CACHE / "fashion_mnist" / "rotation"
    return folder if folder.exists() else _turned(fashion_mnist("t10k")[0], folder)


def _turned(images: Array, folder: Path) -> Path:
    partial = folder.with_name("rotation.partial")
    chosen = iter(np.random.default_rng(0).permutation(len(images)))
    for split, size in SIZES.items():
        for number in range(size):
            turns, index = number % 4, int(next(chosen))
            target = partial / split / f"turned_{90 * turns:03d}"
            target.mkdir(parents=True, exist_ok=True)
            image = np.ascontiguousarray(np.rot90(images[index], turns))
            Image.fromarray(image).save(target / f"{index:05d}.png")
    return partial.rename(folder)


if __name__ == "__main__":
    print(grocery(), cifar_turned(), fashion_turned(), sep="\n")

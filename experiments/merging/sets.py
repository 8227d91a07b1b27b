"""The sets of images of this study, as tensors.

``fashion``: the demo's 2,200 images of Fashion-MNIST, 10 classes. ``grocery``: the Grocery Store
images, 14 classes of fruit (see ``../dinov2_small/prepare.py``). ``fashion_turned``,
``cifar_turned``: by which quarter turn was an image turned, 4 classes (see ``../real/images.py``).
``cifar``: 2,000 of CIFAR-10's test images, 10 classes.
``objects_turned``: which of the 20 classes of Fashion-MNIST and CIFAR-10, by which quarter turn: 80
classes. No image of CIFAR-10 is one that the small ViT was pretrained on.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

EXPERIMENTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(EXPERIMENTS), str(EXPERIMENTS / "real"), str(EXPERIMENTS / "dinov2_small")]
from assets import cifar10, fashion_mnist
from images import cifar_turned, fashion_turned, grocery

from pcvpt.data import DemoDataModule

Split = tuple[Tensor, Tensor]  # images (n, 3, size, size) uint8, labels (n,)


@dataclass
class Set:
    """Images and labels of train, val and test."""

    train: Split
    val: Split
    test: Split
    classes: int


def load(name: str, size: int) -> Set:
    """Return set ``name`` with images of ``size`` pixels; nothing is cropped."""
    if name == "fashion":
        splits = DemoDataModule().read_splits()
        parts = [
            _tensors([item.source for item in part], [item.label for item in part], size)
            for part in (splits.train, splits.val, splits.test)
        ]
        return Set(*parts, classes=10)
    if name == "objects_turned":
        return _objects_turned(size)
    if name == "cifar":
        images, labels = cifar10()[2:]
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
        parts = [
            _tensors([images[i] for i in part], labels[part].tolist(), size)
            for part in order[:2000].split([800, 200, 1000])
        ]
        return Set(*parts, classes=10)
    folder = {"grocery": grocery, "fashion_turned": fashion_turned, "cifar_turned": cifar_turned}
    return _folder(folder[name](), size)


def _objects_turned(size: int) -> Set:
    images = [np.stack([image] * 3, -1) for image in fashion_mnist("t10k")[0]], cifar10()[2]
    labels = fashion_mnist("t10k")[1], cifar10()[3] + 10
    order = np.random.default_rng(0)
    by_class = [
        [images[which][i] for i in order.permutation(np.flatnonzero(labels[which] == label))]
        for which, first in ((0, 0), (1, 10))
        for label in range(first, first + 10)
    ]
    parts, begin = [], 0
    for count in (16, 4, 25):  # of each of the 80 classes
        pixels, turned = [], []
        for label, own in enumerate(by_class):
            for turns in range(4):
                for image in own[begin + turns * count : begin + (turns + 1) * count]:
                    pixels.append(np.ascontiguousarray(np.rot90(image, turns)))
                    turned.append(4 * label + turns)
        parts.append(_tensors(pixels, turned, size))
        begin += 4 * count
    return Set(*parts, classes=80)


def _folder(root: Path, size: int) -> Set:
    classes = sorted(path.name for path in (root / "train").iterdir())
    found: dict[str, Split] = {}
    for split in ("train", "val", "test"):
        files = [
            (file, label)
            for label, name in enumerate(classes)
            for file in sorted((root / split / name).glob("*"))
        ]
        if files:
            pixels = [np.asarray(Image.open(file).convert("RGB")) for file, _ in files]
            found[split] = _tensors(pixels, [label for _, label in files], size)
    if "val" not in found:  # of each class every seventh image
        images, labels = found["train"]
        within = torch.cat([torch.arange(int((labels == c).sum())) for c in range(len(classes))])
        chosen = within % 7 == 3
        found["val"] = images[chosen], labels[chosen]
        found["train"] = images[~chosen], labels[~chosen]
    return Set(found["train"], found["val"], found["test"], len(classes))


def _tensors(images: list[np.ndarray], labels: list[int], size: int) -> Split:
    resized = [
        np.asarray(Image.fromarray(image).convert("RGB").resize((size, size), Image.BILINEAR))
        for image in images
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2), torch.tensor(labels)

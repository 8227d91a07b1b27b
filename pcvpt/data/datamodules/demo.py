"""The demo's images, which are part of the package."""

from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from pcvpt.data.datamodules.image import ImageDataModule
from pcvpt.data.pixel_cache import Cache
from pcvpt.data.splits import Item, Splits
from pcvpt.data.transforms import Resize


class DemoDataModule(ImageDataModule):
    """Fashion-MNIST, 1,000 / 200 / 1,000 grey images of 28x28 pixels, part of the package.

    Source: Xiao, Rasul, Vollgraf, https://arxiv.org/abs/1708.07747, MIT licence; the images are
    chosen by ``experiments/demo_data/make.py``. The defaults are VTAB's: no crop, no augmentation.

    Args:
        num_workers: Processes per device that read images. 0 reads them in the main process.
        resize: ``crop`` keeps the aspect ratio, ``squash`` keeps the whole image.
        augment: Whether training images are mirrored, and with ``crop`` cropped, at random.
        cache: Cache of the resized images, see ``ImageDataModule``.
        kwargs: Arguments of ``ImageDataModule``.
    """

    CLASS_NAMES = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )

    def __init__(
        self,
        num_workers: int = 0,
        resize: Resize = "squash",
        augment: bool = False,
        cache: Cache = "memory",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_workers=num_workers, resize=resize, augment=augment, cache=cache, **kwargs
        )

    @property
    @override
    def source(self) -> str:
        return "2,200 images of Fashion-MNIST that ship with pcvpt"

    @override
    def read_splits(self) -> Splits:
        with np.load(Path(__file__).parents[1] / "assets/fashion_mnist_demo.npz") as arrays:
            train, val, test = (
                tuple(map(Item, arrays[f"{name}_images"], arrays[f"{name}_labels"].tolist()))
                for name in ("train", "val", "test")
            )
        return Splits(train, val, test, self.CLASS_NAMES)

"""The tasks: your own images in folders or lists, and the demo that ships with the package."""

import io
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from pcvpt.data.datamodule import ImageTask
from pcvpt.data.folders import read_class_folders
from pcvpt.data.lists import read_list_files
from pcvpt.data.splits import Item, Splits
from pcvpt.data.transforms import Resize


class ImageFolderTask(ImageTask):
    """Your own images in ``root/{train,val,test}/<class>/<image>``; val and test may be absent.

    Args:
        root: folder that holds the folder ``train``.
        val_fraction: part of train that becomes val where there is no folder ``val``.
        split_seed: of that division. It is not ``seed``, so that runs with several seeds, and a
            test of a finished run, have the same validation images.
        kwargs: as for ``ImageTask``.
    """

    def __init__(
        self, root: str, val_fraction: float = 0.1, split_seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    @override
    def read_splits(self) -> Splits:
        return read_class_folders(self.root, self.val_fraction, self.split_seed)


class ListFileTask(ImageTask):
    """Your own images in list files, each line ``path label``.

    Args:
        root: folder that all paths are relative to, those of images and those of lists.
        train: list of the training images; its labels are the classes.
        val: list of the validation images; None divides them off from train.
        test: list of the test images, if there are any.
        val_fraction: part of train that becomes val where there is no list ``val``.
        split_seed: of that division, see ``ImageFolderTask``.
        kwargs: as for ``ImageTask``.
    """

    def __init__(
        self,
        root: str,
        train: str,
        val: str | None = None,
        test: str | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self.train_list = self.root / train
        self.val_list = self.root / val if val else None
        self.test_list = self.root / test if test else None
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    @override
    def read_splits(self) -> Splits:
        return read_list_files(
            self.root,
            self.train_list,
            self.val_list,
            self.test_list,
            self.val_fraction,
            self.split_seed,
        )


class DemoTask(ImageTask):
    """1,000 / 200 / 1,000 real images of Fashion-MNIST, 28x28 grey, that ship with the package.

    Source: Xiao, Rasul, Vollgraf, https://arxiv.org/abs/1708.07747, MIT licence; the choice is made
    by ``experiments/demo_data/make.py``. The defaults are VTAB's: no cropping, no augmentation.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(num_workers=num_workers, resize=resize, augment=augment, **kwargs)

    @override
    def read_splits(self) -> Splits:
        packed = files("pcvpt.data").joinpath("assets/fashion_mnist_demo.npz").read_bytes()
        with np.load(io.BytesIO(packed)) as arrays:
            train, val, test = (
                tuple(
                    Item(image, int(label))
                    for image, label in zip(
                        arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True
                    )
                )
                for split in ("train", "val", "test")
            )
        return Splits(train, val, test, self.CLASS_NAMES)

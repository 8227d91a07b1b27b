"""The user's own images, in folders, in lists or in JSON files."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from pcvpt.data.datamodules.image import ImageDataModule
from pcvpt.data.readers.class_folders import read_class_folders
from pcvpt.data.readers.listed_splits import read_json_splits, read_list_splits
from pcvpt.data.splits import Splits


class ImageFolderDataModule(ImageDataModule):
    """Your own images in ``root/{train,val,test}/<class>/<image>``; val and test may be absent.

    The folder ``val`` may be called ``valid`` or ``validation``. All files that Pillow can read are
    taken; one line tells what was passed over.

    Args:
        root: Folder that holds the folder ``train``.
        val_fraction: Part of train that becomes val if there is no folder ``val``.
        split_seed: Seed of that division. It differs from ``seed``, so that runs with several
            seeds, and a test of a finished run, have the same validation images.
        kwargs: Arguments of ``ImageDataModule``.
    """

    def __init__(
        self, root: str, val_fraction: float = 0.1, split_seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    @property
    @override
    def source(self) -> str:
        return f"class folders in {self.root}"

    @override
    def read_splits(self) -> Splits:
        splits = read_class_folders(self.root)
        for note in splits.notes:
            rank_zero_info(note)
        return splits.divided(self.val_fraction, self.split_seed)


class ListFileDataModule(ImageDataModule):
    """Your own images in list files, each line ``path label``.

    Args:
        root: Folder that the paths of the list files are relative to.
        train: List file of the training images. Its labels are the classes.
        val: List file of the validation images. Default: they are divided off train.
        test: List file of the test images. Default: there are none.
        images: Folder below ``root`` that the paths in the lists are relative to.
        val_fraction: Part of train that becomes val if there is no list ``val``.
        split_seed: Seed of that division, see ``ImageFolderDataModule``.
        kwargs: Arguments of ``ImageDataModule``.
    """

    read_files = staticmethod(read_list_splits)

    def __init__(
        self,
        root: str,
        train: str,
        val: str | None = None,
        test: str | None = None,
        images: str = "",
        val_fraction: float = 0.1,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self.images = self.root / images
        self.train_list = self.root / train
        self.val_list = self.root / val if val else None
        self.test_list = self.root / test if test else None
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    @property
    @override
    def source(self) -> str:
        lists = [str(file) for file in (self.train_list, self.val_list, self.test_list) if file]
        return f"{', '.join(lists)}, images in {self.images}"

    @override
    def read_splits(self) -> Splits:
        splits = self.read_files(self.images, self.train_list, self.val_list, self.test_list)
        return splits.divided(self.val_fraction, self.split_seed)


class JsonDataModule(ListFileDataModule):
    """Your own images in JSON files, each ``{"path/of/image.jpg": class id, ...}``.

    The arguments are those of ``ListFileDataModule``, with JSON files instead of list files.
    """

    read_files = staticmethod(read_json_splits)

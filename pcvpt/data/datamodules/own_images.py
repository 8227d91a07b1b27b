"""The user's own images, in folders, in lists or in JSON files."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from pcvpt.data.datamodules.image import ImageDataModule
from pcvpt.data.readers.class_folders import read_class_folders
from pcvpt.data.readers.listed_splits import read_json_splits, read_list_splits
from pcvpt.data.splits import Splits, TaskSplits


class OwnImagesDataModule(ImageDataModule):
    """The user's own images, whose val may be divided off train.

    Args:
        val_fraction: Part of train that becomes val if there is no val.
        split_seed: Seed of that division. It differs from ``seed``, so that runs with several
            seeds, and a test of a finished run, have the same validation images.
        fold: One of n folds of train and val, which becomes val: 0/5 to 4/5. Default: no folds.
        shots: Number of training images of each class. Default: all.
        kwargs: Arguments of ``ImageDataModule``.
    """

    def __init__(
        self,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        fold: str | None = None,
        shots: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.fold = fold
        self.shots = shots

    @abstractmethod
    def read_files(self) -> TaskSplits:
        """Read the splits as the files give them."""

    @override
    def read_splits(self) -> Splits:
        splits = self.read_files()
        for note in splits.notes:
            rank_zero_info(note)
        return splits.divided(self.val_fraction, self.split_seed, self.fold, self.shots)


class ImageFolderDataModule(OwnImagesDataModule):
    """Your own images in ``root/{train,val,test}/<class>/<image>``; val and test may be absent.

    The folder ``val`` may be called ``valid`` or ``validation``. All files that Pillow can read are
    taken; one line tells what was passed over.

    Args:
        root: Folder that holds the folder ``train``.
        kwargs: Arguments of ``OwnImagesDataModule``.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()

    @property
    @override
    def source(self) -> str:
        return f"class folders in {self.root}"

    @override
    def read_files(self) -> TaskSplits:
        return read_class_folders(self.root)


class ListFileDataModule(OwnImagesDataModule):
    """Your own images in list files, each line ``path label``.

    With tabs, a line may have a third column: ``path<tab>label<tab>group``. Images of one group,
    such as those of one patient, are then in the same ``fold``.

    Args:
        root: Folder that the paths of the list files are relative to.
        train: List file of the training images. Its labels are the classes.
        val: List file of the validation images. Default: they are divided off train.
        test: List file of the test images. Default: there are none.
        images: Folder below ``root`` that the paths in the lists are relative to.
        kwargs: Arguments of ``OwnImagesDataModule``.
    """

    _read = staticmethod(read_list_splits)

    def __init__(
        self,
        root: str,
        train: str,
        val: str | None = None,
        test: str | None = None,
        images: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self.images = self.root / images
        self.train_list = self.root / train
        self.val_list = self.root / val if val else None
        self.test_list = self.root / test if test else None

    @property
    @override
    def source(self) -> str:
        lists = [str(file) for file in (self.train_list, self.val_list, self.test_list) if file]
        return f"{', '.join(lists)}, images in {self.images}"

    @override
    def read_files(self) -> TaskSplits:
        return self._read(self.images, self.train_list, self.val_list, self.test_list)


class JsonDataModule(ListFileDataModule):
    """Your own images in JSON files, each ``{"path/of/image.jpg": class id, ...}``.

    The arguments are those of ``ListFileDataModule``, with JSON files instead of list files.
    """

    _read = staticmethod(read_json_splits)

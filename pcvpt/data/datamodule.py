"""The one LightningDataModule behind every task; a task only says what its splits are."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from torchvision.transforms import v2
from typing_extensions import override

from pcvpt.data import images
from pcvpt.data.dataset import EpochSampler, LabelledImages, NamedImages
from pcvpt.data.folders import find_images
from pcvpt.data.splits import Item, Splits
from pcvpt.data.transforms import InputSpec, Interpolation, Resize, eval_transform, train_transform
from pcvpt.errors import UsageError


class ImageTask(LightningDataModule, ABC):
    """Labelled images in train, val and test, made to fit the backbone at hand.

    A subclass implements ``read_splits``. Size and normalisation of the images come from the
    ``input_spec`` of the trainer's module, or from this object's own where one was set.

    Args:
        batch_size: images per device and step.
        num_workers: processes per device that read images; 0 reads in the main process.
        seed: of the order and the augmentation of the training images.
        resize: ``crop`` keeps the aspect, ``squash`` keeps the whole image.
        augment: mirror, and with ``crop`` place the crop, at random in training.
        interpolation: ``bilinear`` or ``bicubic``; None takes the backbone's.
        check_images: decode every file once before anything else is done.
        predict_images: a file or folder to predict; None predicts the test split.

    Raises:
        UsageError: for a batch size below 1, or a negative number of workers or seed.
    """

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 2,
        seed: int = 0,
        resize: Resize = "crop",
        augment: bool = True,
        interpolation: Interpolation | None = None,
        check_images: bool = True,
        predict_images: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}, but must be at least 1")
        if num_workers < 0:
            raise UsageError(f"num_workers is {num_workers}, but must be 0 or more")
        if seed < 0:
            raise UsageError(f"seed is {seed}, but must be 0 or more")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.resize: Resize = resize
        self.augment = augment
        self.interpolation = interpolation
        self.check_images = check_images
        self.predict_images = predict_images
        self.input_spec: InputSpec | None = None

    @abstractmethod
    def read_splits(self) -> Splits:
        """Return the task's splits; reads names and labels, but no pixels of files.

        Raises:
            UsageError: if the data are missing or wrong.
        """

    @cached_property
    def splits(self) -> Splits:
        """The task's splits, read on first use."""
        return self.read_splits()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels; needs no ``setup``."""
        return self.splits.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes; needs no ``setup``."""
        return len(self.class_names)

    @override
    def prepare_data(self) -> None:
        if self.check_images:
            items = self._items_of(self.trainer.state.fn if self.trainer else "fit")
            images.check_images(item.source for item in items if isinstance(item.source, Path))

    @override
    def setup(self, stage: str) -> None:
        self._spec()  # complain before any loader is built
        if stage == "fit":
            self._check_batch()

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        dataset = LabelledImages(self.splits.train, self._train_transform(), self.seed)
        # A sampler of our own even for one process: the order is then the same for any number.
        sampler = EpochSampler(dataset, self._world, self._rank, shuffle=True, seed=self.seed)
        return self._loader(dataset, sampler)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(LabelledImages(self.splits.val, self._eval_transform()))

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(LabelledImages(self._test_items(), self._eval_transform()))

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader(NamedImages(self._predict_items(), self._eval_transform()))

    def scoring_dataloader(self) -> DataLoader[Any]:
        """Return the training images in order, as in evaluation: each on one process, none twice.

        With more processes than images some get no batch at all.
        """
        dataset = LabelledImages(self.splits.train, self._eval_transform())
        return self._loader(Subset(dataset, range(self._rank, len(dataset), self._world)))

    def _loader(
        self, dataset: Dataset[Any], sampler: Sampler[Any] | None = None
    ) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,  # by name: Lightning rebuilds loaders with other values
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: iterating draws nothing from the one that dropout uses.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _train_transform(self) -> v2.Compose:
        return train_transform(self._spec(), self.resize, self.augment)

    def _eval_transform(self) -> v2.Compose:
        return eval_transform(self._spec(), self.resize)

    def _spec(self) -> InputSpec:
        module = self.trainer.lightning_module if self.trainer else None
        spec = self.input_spec or getattr(module, "input_spec", None)
        if spec is None:
            raise UsageError(
                "the size of the images is unknown: give the LightningModule an attribute "
                "input_spec, or set that of the data, to a pcvpt.data.InputSpec"
            )
        return replace(spec, interpolation=self.interpolation or spec.interpolation)

    def _check_batch(self) -> None:
        needed, there = self.batch_size * self._world, len(self.splits.train)
        if needed > there:
            raise UsageError(
                f"batch_size {self.batch_size} on {self._world} device(s) takes {needed} images at "
                f"a time, but there are {there} training images; lower batch_size"
            )

    def _items_of(self, stage: str | None) -> Iterable[Item]:
        """Return the items that ``stage`` will read; a fit also answers for the test after it."""
        if stage == "predict":
            return self._predict_items()
        if stage == "test":
            return self._test_items()
        if stage == "validate":
            return self.splits.val
        return self.splits.train + self.splits.val + self.splits.test

    def _test_items(self) -> Sequence[Item]:
        if not self.splits.test:
            raise UsageError("there are no test images; add a test split to the data")
        return self.splits.test

    def _predict_items(self) -> Sequence[Item]:
        if self.predict_images is None:
            return self._test_items()
        path = Path(self.predict_images).expanduser()
        paths = [path] if path.is_file() else find_images(path)
        if not paths:
            raise UsageError(f"{path}: no images to predict; give a folder that holds some")
        return [Item(path, label=-1) for path in paths]

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

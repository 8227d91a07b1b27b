"""The one LightningDataModule behind every task; a task only says what its splits are."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from typing_extensions import override

from pcvpt.data import image_files
from pcvpt.data.dataset import LabelledImages, NamedImages, whole
from pcvpt.data.hashes import splits_hash
from pcvpt.data.pixel_cache import Cache, Pixels, in_memory, on_disk
from pcvpt.data.samplers import EpochSampler, OnceSampler
from pcvpt.data.splits import Item, Splits
from pcvpt.data.transforms import (
    InputSpec,
    Interpolation,
    Preprocessing,
    Protocol,
    Resize,
    settle,
)
from pcvpt.errors import UsageError
from pcvpt.runs.signals import shield_worker

_WORKERS_PER_CPU = 32  # far too many already; thousands would bring the machine to a halt
_WHERE = {"memory": "in memory", "disk": "on disk"}


class ImageDataModule(LightningDataModule, ABC):
    """Labelled images in train, val and test, made to fit the backbone at hand.

    A subclass implements ``read_splits``. What the backbone expects comes from the ``input_spec``
    of the trainer's module, or from this object's own where one was set. Loaders give uint8 images;
    ``on_after_batch_transfer`` normalises them, whole batches at a time on the model's device.

    Args:
        batch_size: images per device and step.
        num_workers: processes per device that read images; 0 reads in the main process.
        seed: of the order and the augmentation of the training images.
        protocol: ``timm`` (as the backbone was trained), ``vpt`` or ``raw``; see ``transforms``.
        resize: ``crop`` keeps the aspect, ``squash`` keeps the whole image.
        augment: mirror, and with ``crop`` place the crop, at random in training.
        interpolation: ``bilinear`` or ``bicubic``; None takes the protocol's.
        check_images: decode every file once before anything else is done.
        cache: keep train and val decoded and resized: ``memory``, ``disk`` (a file that is mapped,
            shared by all processes and later runs), or ``none``.
        cache_gb: what the cache may take; None is half of the available memory, or nine tenths of
            the free disk.
        cache_folder: where ``cache: disk`` keeps its files.
        persistent_workers: keep the processes from one epoch to the next.
        pin_memory: page-lock batches for copies to a GPU; None does so when there is a GPU.
        predict_images: a file or folder to predict; None predicts the test split.

    Raises:
        UsageError: for a batch size below 1, a negative number of workers, seed or cache_gb, or
            more workers than the machine can bear.
    """

    held_out = True
    """Whether val has no image of train. If not, its accuracy may choose nothing."""

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 2,
        seed: int = 0,
        protocol: Protocol = "timm",
        resize: Resize = "crop",
        augment: bool = True,
        interpolation: Interpolation | None = None,
        check_images: bool = True,
        cache: Cache = "none",
        cache_gb: float | None = None,
        cache_folder: str = "~/.cache/pcvpt/pixels",
        persistent_workers: bool = True,
        pin_memory: bool | None = None,
        predict_images: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}, but must be at least 1")
        for name, value in {"num_workers": num_workers, "seed": seed, "cache_gb": cache_gb}.items():
            if value is not None and value < 0:
                raise UsageError(f"{name} is {value}, but must be 0 or more")
        most = _WORKERS_PER_CPU * (os.cpu_count() or 1)
        if num_workers > most:
            raise UsageError(
                f"num_workers is {num_workers}, but this machine has {os.cpu_count()} CPUs; give "
                f"{most} at most, and rather one for each CPU"
            )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.protocol: Protocol = protocol
        self.resize: Resize = resize
        self.augment = augment
        self.interpolation = interpolation
        self.check_images = check_images
        self.cache: Cache = cache
        self.cache_gb = cache_gb
        self.cache_folder = Path(cache_folder).expanduser()
        self.persistent_workers = persistent_workers
        self.pin_memory = pin_memory
        self.predict_images = predict_images
        self.input_spec: InputSpec | None = None
        self._cached: dict[str, Pixels] = {}

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

    @cached_property
    def hash(self) -> str:
        """What tells these images and labels from others, see :func:`splits_hash`."""
        return splits_hash(self.splits)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels; needs no ``setup``."""
        return self.splits.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes; needs no ``setup``."""
        return len(self.class_names)

    @property
    def source(self) -> str:
        """Where the images come from, for people and records."""
        return type(self).__name__

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What is done to an image; known once there is an ``input_spec``."""
        module = self.trainer.lightning_module if self.trainer else None
        spec = self.input_spec or getattr(module, "input_spec", None)
        if spec is None:
            raise UsageError(
                "the size of the images is unknown: give the LightningModule an attribute "
                "input_spec, or set that of the data, to a pcvpt.data.InputSpec"
            )
        return settle(self.protocol, spec, self.resize, self.augment, self.interpolation)

    def describe(self) -> dict[str, Any]:
        """Return what a record of results must say of the data."""
        parts = {name: getattr(self.splits, name) for name in ("train", "val", "test")}
        return {
            "source": self.source,
            "images": {name: len(items) for name, items in parts.items()},
            "hash": self.hash,
            "classes": self.num_classes,
            "held_out": self.held_out,
            "protocol": self.protocol,
            "preprocessing": str(self.preprocessing),
        }

    @override
    def prepare_data(self) -> None:
        stage = self.trainer.state.fn if self.trainer else "fit"
        if self.trainer and stage == "fit":
            self._check_batch()
        if self.check_images:
            items = self._items_of(stage)
            image_files.check_images(item.source for item in items if isinstance(item.source, Path))
        if self.cache == "disk" and stage == "fit":  # one process per node writes, all map
            self._pixels("train")
            self._pixels("val")

    @override
    def setup(self, stage: str) -> None:
        steps = self.preprocessing  # complain before any loader is built
        if stage == "fit":
            self._check_batch()
            train, val, test = self.splits.train, self.splits.val, self.splits.test
            rank_zero_info(
                f"Data: {self.source}; train {len(train):,}, val {len(val):,}, test {len(test):,}"
            )
        rank_zero_info(f"Images: protocol {self.protocol}: {steps}")

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        dataset = self._dataset("train")
        # A sampler of our own even for one process: the order is then the same for any number.
        sampler = EpochSampler(dataset, self._world, self._rank, shuffle=True, seed=self.seed)
        return self._loader(dataset, sampler, cached=True)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._once(self._dataset("val"), cached=True)

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self._once(LabelledImages(self._test_items(), self.preprocessing))

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader(NamedImages(self._predict_items(), self.preprocessing))

    def scoring_dataloader(self) -> DataLoader[Any]:
        """Return the training images in order, as in evaluation: each on one process, none twice.

        With more processes than images some get no batch at all.
        """
        dataset = self._dataset("train")
        share = Subset(dataset, range(self._rank, len(dataset), self._world))
        return self._loader(share, cached=True)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, *others = batch
        if images.dtype == torch.uint8:
            images = self.preprocessing.normalized(images)
            if self.trainer:  # pure half precision converts before this, and only floats
                images = self.trainer.precision_plugin.convert_input(images)
        return [images, *others]

    def _dataset(self, name: str) -> LabelledImages:
        pixels = self._pixels(name) if self.cache != "none" else None
        return LabelledImages(getattr(self.splits, name), self.preprocessing, self.seed, pixels)

    def _pixels(self, name: str) -> Pixels:
        if name not in self._cached:
            items, start = getattr(self.splits, name), time.monotonic()
            if self.cache == "memory":
                pixels = in_memory(items, self.preprocessing, self.cache_gb)
            else:
                pixels = on_disk(items, self.preprocessing, self.cache_folder, self.cache_gb)
            self._cached[name] = pixels
            rank_zero_info(
                f"Cache: {len(items):,} images of {name} {_WHERE[self.cache]}, "
                f"{pixels.starts[-1] / 1e6:,.0f} MB, in {time.monotonic() - start:.1f} s"
            )
        return self._cached[name]

    def _once(self, dataset: LabelledImages, cached: bool = False) -> DataLoader[Any]:
        several = self._world > 1
        sampler = OnceSampler(dataset, self._world, self._rank, shuffle=False) if several else None
        return self._loader(dataset, sampler, cached)

    def _loader(
        self, dataset: Dataset[Any], sampler: Sampler[Any] | None = None, cached: bool = False
    ) -> DataLoader[Any]:
        # Copying a batch from memory takes less time than handing it from process to process.
        workers = 0 if cached and self.cache == "memory" else self.num_workers
        return DataLoader(
            dataset,
            batch_size=self.batch_size,  # by name: Lightning rebuilds loaders with other values
            sampler=sampler,
            num_workers=workers,
            collate_fn=None if isinstance(dataset, NamedImages) else whole,
            worker_init_fn=shield_worker,
            persistent_workers=self.persistent_workers and workers > 0,
            pin_memory=torch.cuda.is_available() if self.pin_memory is None else self.pin_memory,
            # Its own generator: iterating draws nothing from the one that dropout uses.
            generator=torch.Generator().manual_seed(self.seed),
        )

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
        paths = image_files.find_images(path)
        if not paths:
            raise UsageError(f"{path}: no images to predict; give a folder that holds some")
        return [Item(path, label=-1) for path in paths]

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

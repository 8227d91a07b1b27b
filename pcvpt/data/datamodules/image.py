"""The LightningDataModule of all tasks; a task only implements how its splits are read."""

import os
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core.rank_zero import rank_zero_debug
from torch.utils.data import DataLoader, default_convert
from typing_extensions import override

from pcvpt.data import image_files
from pcvpt.data.datamodules.labelled import LabelledDataModule
from pcvpt.data.dataset import LabelledImages, NamedImages
from pcvpt.data.pixel_cache import Cache, Pixels, cached, check_once
from pcvpt.data.samplers import EpochSampler, OnceSampler
from pcvpt.data.splits import Item
from pcvpt.data.transforms import InputSpec, Interpolation, Preprocessing, Protocol, Resize, settle
from pcvpt.errors import UsageError
from pcvpt.runs.signals import shield_worker

_MOST_WORKERS = 16  # by default
_WORKERS_PER_CPU = 32  # already far too many; thousands would bring the machine to a halt


class ImageDataModule(LabelledDataModule):
    """Labelled images in train, val and test, preprocessed for a backbone.

    A subclass implements ``read_splits``. The images that the backbone expects are described by
    ``input_spec``, an attribute of this object or else of the trainer's module. Loaders give uint8
    images; ``on_after_batch_transfer`` normalises whole batches on the model's device.

    Args:
        batch_size: Images per device and step.
        num_workers: Processes per device that read images. 0 reads them in the main process, and so
            are images that are cached in memory or on the device, whatever the number. Default: the
            cores of the machine, divided among its devices, and 16 at most.
        seed: Seed of the order and the augmentation of the training images.
        protocol: Rules of resizing and normalisation: ``timm`` (as the backbone was trained),
            ``vpt`` or ``raw``; see ``pcvpt.data.transforms``.
        resize: ``crop`` keeps the aspect ratio, ``squash`` keeps the whole image.
        augment: Whether training images are mirrored, and with ``crop`` cropped, at random.
        interpolation: ``bilinear``, ``bicubic`` or ``tf1``. Default: the protocol's.
        check_images: Whether every file is decoded once before anything else is done. Files that
            an earlier start has found whole, and that did not change, are not decoded again.
        cache: Cache of decoded and resized images: ``memory`` or ``device`` (that of the model; not
            with ``augment``) for train and val, ``disk`` (a memory-mapped file, shared by all
            processes and later runs) for the test too, or ``none``.
        cache_gb: Maximum size of the cache in GB. Default: half of the free memory, or nine tenths
            of the free disk space.
        cache_folder: Folder of the files of ``cache: disk``, and of notes on checked images.
        persistent_workers: Whether the processes that read images continue after an epoch.
        pin_memory: Whether batches are page-locked for a GPU. Default: where the Trainer uses one.
        predict_images: Images to predict: a file, a folder, a list ``.txt`` with a path in each
            line, or ``-`` for such a list on standard input. Default: the test split.

    Raises:
        UsageError: If the batch size is below 1, if the number of workers, seed or cache_gb is
            negative, or if there are more workers than the machine can run.
    """

    held_out = True
    """Whether val has no image of train. If it has, its accuracy must not choose a model."""

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int | None = None,
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
        least = {"batch_size": 1, "num_workers": 0, "seed": 0, "cache_gb": 0}
        given = (batch_size, num_workers, seed, cache_gb)
        for (name, minimum), value in zip(least.items(), given, strict=True):
            if value is not None and value < minimum:
                raise UsageError(f"{name} is {value}, but must be {minimum} or more")
        cpus = os.cpu_count() or 1
        if num_workers is not None and num_workers > _WORKERS_PER_CPU * cpus:
            raise UsageError(
                f"num_workers is {num_workers}, but this machine has {cpus} CPUs; give {cpus}"
            )
        if cache == "device" and (augment or pin_memory):
            raise UsageError(
                f"cache=device with augment={augment} and pin_memory={pin_memory}, but images are "
                "augmented and pinned on the host; set these to false, or cache to memory"
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
        self._cached: dict[tuple[str, Preprocessing], Pixels] = {}

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the images; it needs an ``input_spec``."""
        module = self.trainer.lightning_module if self.trainer else None
        spec = self.input_spec or getattr(module, "input_spec", None)
        if spec is None:
            raise UsageError(
                "the size of the images is unknown: give the LightningModule an attribute "
                "input_spec, or set that of the data, to a pcvpt.data.InputSpec"
            )
        return settle(self.protocol, spec, self.resize, self.augment, self.interpolation)

    def describe(self) -> dict[str, Any]:
        """Return the description of the data for the results of a run."""
        return {
            "source": self.source,
            "images": self._sizes(),
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
            items = self.items_to_check(stage)
            check_once([x.source for x in items if isinstance(x.source, Path)], self.cache_folder)
        if self.cache == "disk":  # one process per node writes, all map
            for name in {"fit": ("train", "val"), "test": ("test",)}.get(str(stage), ()):
                self._pixels(name)

    @override
    def setup(self, stage: str) -> None:
        steps = self.preprocessing  # raises before any loader is built
        if stage == "fit":
            self._check_batch()
            sizes = ", ".join(f"{name} {size:,}" for name, size in self._sizes().items())
            rank_zero_info(f"Data: {self.source}; {sizes}")
        rank_zero_debug(f"Images: protocol {self.protocol}: {steps}")

    def _check_batch(self) -> None:
        """Raise a UsageError if all devices together take more than all training images at once."""
        devices, images = self._process[0], len(self.splits.train)
        needed = self.batch_size * devices
        if needed > images:
            raise UsageError(
                f"batch_size {self.batch_size} on {devices} device(s) takes {needed} images at a "
                f"time, but there are {images} training images; lower batch_size"
            )

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        dataset = self._dataset("train")
        # A sampler of our own even for one process: the order is then the same for any number.
        sampler = EpochSampler(dataset, *self._process, shuffle=True, seed=self.seed)
        return self._loader(dataset, sampler)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._once(self._dataset("val"))

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        self._test_items()
        # Memory is for what is read again and again.
        return self._once(self._dataset("test", cached=self.cache == "disk"))

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader(NamedImages(self._predict_items, self.preprocessing))

    def scoring_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the training images in order, without augmentation.

        Each image is read by one process only. With more processes than images, some processes
        get no batch.
        """
        dataset = self._dataset("train")
        world, rank = self._process
        return self._loader(dataset, range(rank, len(dataset), world))

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, *others = batch
        if images.dtype == torch.uint8:
            images = self.preprocessing.normalized(images)
            if self.trainer:  # pure half precision converts before this, and only floats
                images = self.trainer.precision_plugin.convert_input(images)
        return [images, *others]

    def _sizes(self) -> dict[str, int]:
        return {name: len(getattr(self.splits, name)) for name in ("train", "val", "test")}

    def _dataset(self, name: str, cached: bool = True) -> LabelledImages:
        pixels = self._pixels(name) if cached and self.cache != "none" else None
        return LabelledImages(getattr(self.splits, name), self.preprocessing, self.seed, pixels)

    def _pixels(self, name: str) -> Pixels:
        key = name, self.preprocessing
        if key not in self._cached:
            items, start = getattr(self.splits, name), time.monotonic()
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            places: dict[str, Any] = {"disk": self.cache_folder, "device": device}
            where = places.get(self.cache)
            self._cached[key] = pixels = cached(items, self.preprocessing, where, self.cache_gb)
            rank_zero_debug(
                f"Cache: {len(items):,} images of {name} in {where or 'memory'}, "
                f"{pixels.starts[-1] / 1e6:,.0f} MB, in {time.monotonic() - start:.1f} s"
            )
        return self._cached[key]

    def _once(self, dataset: LabelledImages) -> DataLoader[Any]:
        several = self._process[0] > 1
        sampler = OnceSampler(dataset, *self._process, shuffle=False) if several else None
        return self._loader(dataset, sampler)

    def _loader(
        self, dataset: LabelledImages | NamedImages, sampler: Iterable[Any] | None = None
    ) -> DataLoader[Any]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        devices = self.trainer.num_devices if self.trainer else 1
        workers = min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // devices))
        workers = workers if self.num_workers is None else self.num_workers
        cached = isinstance(dataset, LabelledImages) and dataset.pixels is not None
        # Copying a batch from memory takes less time than sending it to another process.
        workers = 0 if cached and self.cache in ("memory", "device") else workers
        pins = on_gpu if self.pin_memory is None else self.pin_memory
        return DataLoader(
            dataset,
            batch_size=self.batch_size,  # by name: Lightning rebuilds loaders with other values
            sampler=sampler,
            num_workers=workers,
            collate_fn=None if isinstance(dataset, NamedImages) else default_convert,
            worker_init_fn=shield_worker,
            persistent_workers=self.persistent_workers and workers > 0,
            pin_memory=pins and not (cached and self.cache == "device"),
            # Its own generator: iterating draws nothing from the one that dropout uses.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def items_to_check(self, stage: str | None) -> Iterable[Item]:
        """Return the items to decode before ``stage``; before a fit, those of the test too."""
        if stage == "predict":
            return self._predict_items
        if stage == "test":
            return self._test_items()
        train, val, test = self.splits.train, self.splits.val, self.splits.test
        return val if stage == "validate" else train + val + test

    def _test_items(self) -> Sequence[Item]:
        if not self.splits.test:
            raise UsageError("there are no test images; add a test split to the data")
        return self.splits.test

    @cached_property
    def _predict_items(self) -> Sequence[Item]:
        if self.predict_images is None:
            return self._test_items()
        paths, note = image_files.given_images(self.predict_images)
        if note:
            rank_zero_info(note)
        return [Item(path, label=-1) for path in paths]

    @property
    def _process(self) -> tuple[int, int]:
        """Number of processes and index of this one."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

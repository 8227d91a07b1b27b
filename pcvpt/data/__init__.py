"""Images with labels, divided into train, val and test, as LightningDataModules.

The names load on first use, so that the table of tasks and the layouts need neither torch nor
lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcvpt.data.datamodules.benchmark import BenchmarkDataModule
    from pcvpt.data.datamodules.demo import DemoDataModule
    from pcvpt.data.datamodules.image import ImageDataModule
    from pcvpt.data.datamodules.own_images import (
        ImageFolderDataModule,
        JsonDataModule,
        ListFileDataModule,
    )
    from pcvpt.data.splits import Item, Splits
    from pcvpt.data.tasks.table import TASKS, Task
    from pcvpt.data.transforms import InputSpec, Preprocessing, eval_transform, settle

    # fmt: off
    from pcvpt.data.datamodules.tasks import (  # isort: skip
        CIFAR100, CUB, DTD, RESISC45, SUN397, SVHN, Caltech101, ClevrCount, ClevrDist,
        DiabeticRetinopathy, DMLab, DSpritesLoc, DSpritesOri, EuroSAT, Flowers102, KittiDist,
        NABirds, OxfordFlowers, PatchCamelyon, Pets, SmallNORBAzi, SmallNORBEle, StanfordCars,
        StanfordDogs,
    )
    # fmt: on

# fmt: off
__all__ = [
    "CIFAR100", "CUB", "DTD", "RESISC45", "SUN397", "SVHN", "TASKS", "BenchmarkDataModule",
    "Caltech101", "ClevrCount", "ClevrDist", "DMLab", "DSpritesLoc", "DSpritesOri",
    "DemoDataModule", "DiabeticRetinopathy", "EuroSAT", "Flowers102", "ImageDataModule",
    "ImageFolderDataModule", "InputSpec", "Item", "JsonDataModule", "KittiDist",
    "ListFileDataModule", "NABirds", "OxfordFlowers", "PatchCamelyon", "Pets", "Preprocessing",
    "SmallNORBAzi", "SmallNORBEle", "Splits", "StanfordCars", "StanfordDogs", "Task",
    "eval_transform", "settle",
]
# fmt: on

_MODULES = {
    "BenchmarkDataModule": "datamodules.benchmark",
    "DemoDataModule": "datamodules.demo",
    "ImageDataModule": "datamodules.image",
    "ImageFolderDataModule": "datamodules.own_images",
    "JsonDataModule": "datamodules.own_images",
    "ListFileDataModule": "datamodules.own_images",
    **dict.fromkeys(("Item", "Splits"), "splits"),
    **dict.fromkeys(("TASKS", "Task"), "tasks.table"),
    **dict.fromkeys(("InputSpec", "Preprocessing", "eval_transform", "settle"), "transforms"),
}
"""Where each name of ``__all__`` is defined, except the 24 tasks."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'datamodules.tasks')}"), name)


def __dir__() -> list[str]:
    return __all__

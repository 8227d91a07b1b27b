"""Tasks: images with labels, divided into train, val and test."""

from pcvpt.data.datamodule import ImageTask
from pcvpt.data.splits import Item, Splits
from pcvpt.data.tasks import DemoTask, ImageFolderTask, ListFileTask
from pcvpt.data.transforms import InputSpec, eval_transform, train_transform

__all__ = [
    "DemoTask",
    "ImageFolderTask",
    "ImageTask",
    "InputSpec",
    "Item",
    "ListFileTask",
    "Splits",
    "eval_transform",
    "train_transform",
]

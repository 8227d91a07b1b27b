"""Images to analyse: of a split of the task, or the user's own files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pcvpt.cli.analyze.trained_model import TrainedModel
from pcvpt.data.contact_sheet import choose
from pcvpt.data.image_files import (
    PassedOver,
    check_images,
    find_images,
    load,
    printable,
    tell_passed_over,
)
from pcvpt.data.splits import Item, Record
from pcvpt.data.transforms import Preprocessing
from pcvpt.errors import UsageError


class Sample(NamedTuple):
    """Normalised images ``(b, 3, h, w)`` with names and labels, -1 where the label is not known.

    Where there are no files, images are named by numbers.
    """

    images: Tensor
    names: list[str]
    labels: list[int]
    preprocessing: Preprocessing


def images_of_split(trained: TrainedModel, split: str, count: int) -> Sample:
    """Return ``count`` images, at least 1, of ``split``, of all classes as evenly as possible.

    A UsageError is raised if the split has no images.
    """
    trained.require_images(split)
    of_class = Counter[int]()

    def rank(item: Item) -> int:
        of_class[item.label] += 1
        return of_class[item.label]

    # The first images are drawn: they are of different classes.
    return _read(trained, sorted(choose(getattr(trained.data.splits, split), count), key=rank))


def images_of_files(trained: TrainedModel, path: Path) -> Sample:
    """Return the image ``path``, or all images in the folder ``path``.

    A UsageError is raised if there are no images, or one can't be decoded.
    """
    path, passed_over = path.expanduser(), PassedOver()
    files = find_images(path, passed_over)
    if note := tell_passed_over(path, passed_over):
        print(note)
    if not files:
        raise UsageError(f"{path}: no images here; give an image, or a folder that holds some")
    check_images(files)
    return _read(trained, [Item(file, label=-1) for file in files])


def class_names(trained: TrainedModel) -> Sequence[str] | None:
    """Return the names of the classes; None where they are not known."""
    names: Sequence[str] | None = (trained.task or trained.model.adapter).class_names
    return names


def _read(trained: TrainedModel, items: Sequence[Item]) -> Sample:
    steps = (trained.task or trained.model.adapter).preprocessing
    if steps is None:
        raise UsageError(
            f"{trained.path} does not describe the preprocessing of images; give the run's "
            "config.yaml by --config"
        )
    images = torch.stack([steps(load(item.source)) for item in items])
    names = [
        printable(item.source.name) if isinstance(item.source, Path | Record) else f"image {number}"
        for number, item in enumerate(items)
    ]
    return Sample(images, names, [item.label for item in items], steps)

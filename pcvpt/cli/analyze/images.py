"""Images to analyse: of a split of the task, or the user's own files."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pcvpt.cli.analyze.trained_model import TrainedModel
from pcvpt.data.contact_sheet import choose
from pcvpt.data.image_files import check_images, given_images, load, printable
from pcvpt.data.splits import Item, Record, by_label
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
    chosen = choose(getattr(trained.data.splits, split), count)
    # The first images are drawn: they are of different classes.
    rounds = zip_longest(*by_label(chosen).values())
    return _read(trained, [chosen[n] for each in rounds for n in each if n is not None])


def images_of_files(trained: TrainedModel, given: str) -> Sample:
    """Return the images of :func:`items_of`; a UsageError is raised if one can't be decoded."""
    items = items_of(given)
    check_images(item.source for item in items if isinstance(item.source, Path))
    return _read(trained, items)


def items_of(given: str) -> list[Item]:
    """Return the images that a user names, without labels, and tell which files were not read."""
    paths, note = given_images(given)
    if note:
        print(note)
    return [Item(path, label=-1) for path in paths]


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

"""Some images to look at: of a split of the task, or of the user's own files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pcvpt.cli.analyze.trained_model import Subject
from pcvpt.data.image_files import check_images, find_images, load
from pcvpt.data.splits import Item, Record
from pcvpt.data.tools.contact_sheet import choose
from pcvpt.data.transforms import Preprocessing
from pcvpt.errors import UsageError


class Sample(NamedTuple):
    """Images as the model takes them.

    Attributes:
        images: normalised, ``(b, 3, h, w)``.
        names: of the files, or else numbers.
        labels: -1 where it is not known.
        steps: what was done to them.
    """

    images: Tensor
    names: list[str]
    labels: list[int]
    steps: Preprocessing

    def pictures(self, count: int) -> Tensor:
        """Return the first ``count`` images as they look, ``(count, 3, h, w)`` in [0, 1]."""
        mean, std = (
            torch.tensor(values).view(3, 1, 1) for values in (self.steps.mean, self.steps.std)
        )
        return (self.images[:count] * std + mean).clamp(0, 1)


def of_split(subject: Subject, split: str, count: int) -> Sample:
    """Return ``count`` images of ``split``, as evenly of all classes as can be.

    Raises:
        UsageError: when the count is below 1, or the split empty.
    """
    if count < 1:
        raise UsageError(f"{count} images; give at least 1")
    subject.require_images(split)
    chosen, of_class = choose(getattr(subject.data.splits, split), count), Counter[int]()
    ranks = []
    for item in chosen:
        ranks.append(of_class[item.label])
        of_class[item.label] += 1
    # The first ones are drawn: let them be of different classes.
    order = sorted(range(len(chosen)), key=lambda place: (ranks[place], place))
    return _read(subject, [chosen[place] for place in order])


def of_files(subject: Subject, path: Path) -> Sample:
    """Return the image ``path``, or all images in the folder ``path``.

    Raises:
        UsageError: when there are none, or one can't be decoded.
    """
    path = path.expanduser()
    files = find_images(path)
    if not files:
        raise UsageError(f"{path}: no images here; give an image, or a folder that holds some")
    check_images(files)
    return _read(subject, [Item(file, label=-1) for file in files])


def class_names(subject: Subject) -> tuple[str, ...] | None:
    """Return the names of the classes, None where the subject does not say."""
    if subject.task is not None:
        return tuple(subject.task.class_names)
    names: tuple[str, ...] | None = subject.model.adapter.class_names
    return names


def _read(subject: Subject, items: Sequence[Item]) -> Sample:
    steps = _preprocessing(subject)
    images = torch.stack([steps(load(item.source)) for item in items])
    names = [_name(item, number) for number, item in enumerate(items)]
    return Sample(images, names, [item.label for item in items], steps)


def _preprocessing(subject: Subject) -> Preprocessing:
    if subject.task is not None:
        return subject.task.preprocessing
    steps: Preprocessing | None = subject.model.adapter.preprocessing
    if steps is None:
        raise UsageError(
            f"{subject.path} does not say how images are prepared; give the run's config.yaml by "
            "--config"
        )
    return steps


def _name(item: Item, number: int) -> str:
    if isinstance(item.source, Path):
        return item.source.name
    return item.source.name if isinstance(item.source, Record) else f"image {number}"

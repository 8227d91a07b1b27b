from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pcvpt.data.dataset import LabelledImages, NamedImages, identity_collate
from pcvpt.data.image_files import load
from pcvpt.data.samplers import IGNORED, PADDING, EpochSampler
from pcvpt.data.splits import Item
from pcvpt.data.transforms import InputSpec, settle

ITEMS = [
    Item(np.random.default_rng(number).integers(0, 256, (12, 20, 3), dtype=np.uint8), number)
    for number in range(16)
]


@pytest.fixture
def dataset(spec: InputSpec) -> LabelledImages:
    return LabelledImages(ITEMS, settle("timm", spec, "crop", augment=True), seed=5)


def _loader(dataset: LabelledImages, batch: int, *process: int, **options: Any) -> DataLoader[Any]:
    sampler = EpochSampler(dataset, *(process or (1, 0)), seed=5)
    return DataLoader(dataset, batch, sampler=sampler, collate_fn=identity_collate, **options)


def _epoch(loader: DataLoader[Any], epoch: int) -> list[list[torch.Tensor]]:
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def test_the_augmentation_is_drawn_from_seed_epoch_and_index(dataset: LabelledImages) -> None:
    resized = dataset.steps.resized(load(ITEMS[7].source))
    expected = dataset.steps.cut(resized, np.random.default_rng([5, 3, 7]))
    assert torch.equal(dataset[3, 7][0][0], expected)


@pytest.mark.parametrize("epoch", [0, 3])
def test_two_processes_see_the_global_batches_of_one(dataset: LabelledImages, epoch: int) -> None:
    one = _epoch(_loader(dataset, 4), epoch)
    two = zip(*(_epoch(_loader(dataset, 2, 2, rank), epoch) for rank in (0, 1)), strict=True)
    for (images, labels), parts in zip(one, two, strict=True):
        part_labels = torch.cat([part[1] for part in parts])
        part_images = torch.cat([part[0] for part in parts])
        assert torch.equal(labels.sort()[0], part_labels.sort()[0])
        assert torch.equal(images[labels.argsort()], part_images[part_labels.argsort()])


def test_persistent_workers_augment_as_the_main_process_does(dataset: LabelledImages) -> None:
    loader = _loader(dataset, 4, num_workers=2, persistent_workers=True)
    for epoch in range(2):
        alone = _epoch(_loader(dataset, 4), epoch)
        pairs = zip(_epoch(loader, epoch), alone, strict=True)
        for (images, labels), (expected, expected_labels) in pairs:
            assert torch.equal(labels, expected_labels)
            assert torch.equal(images, expected)


def test_augmentation_leaves_the_generator_as_it_was(dataset: LabelledImages) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    dataset[0, 3]
    assert torch.equal(torch.rand(3), expected)


def test_arrays_are_named_by_their_number(spec: InputSpec) -> None:
    image, name = NamedImages(ITEMS, settle("timm", spec, "squash", augment=False))[7]
    assert name == "7"
    assert image.shape == (3, 8, 8)


def test_padding_has_a_label_that_counts_for_nothing(dataset: LabelledImages) -> None:
    images, labels = dataset.__getitems__([3, PADDING])
    assert images.shape == (2, 3, 8, 8)
    assert labels.tolist() == [3, IGNORED]

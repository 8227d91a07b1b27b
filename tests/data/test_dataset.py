from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_convert

from miniature.images import noise
from pcvpt.data.dataset import LabelledImages, NamedImages
from pcvpt.data.image_files import load
from pcvpt.data.samplers import IGNORED, PADDING, EpochSampler
from pcvpt.data.splits import Item
from pcvpt.data.transforms import InputSpec, settle

ITEMS = [Item(noise(number, (12, 20, 3)), number) for number in range(16)]


@pytest.fixture
def dataset(spec: InputSpec) -> LabelledImages:
    return LabelledImages(ITEMS, settle("timm", spec, "crop", augment=True), seed=5)


def test_the_augmentation_is_drawn_from_seed_epoch_and_index(dataset: LabelledImages) -> None:
    resized = dataset.steps.resized(load(ITEMS[7].source))
    expected = dataset.steps.cut(resized, np.random.default_rng([5, 3, 7]))
    state = torch.get_rng_state()
    assert torch.equal(dataset[3, 7][0][0], expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_persistent_workers_augment_as_the_main_process_does(dataset: LabelledImages) -> None:
    options: Any = {"num_workers": 2, "persistent_workers": True, "collate_fn": default_convert}
    sampler = EpochSampler(dataset, 1, 0, seed=5)
    loader = DataLoader(dataset, 4, sampler=sampler, **options)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        for start, found in zip(range(0, 16, 4), loader, strict=True):
            assert all(map(torch.equal, found, dataset.__getitems__(keys[start : start + 4])))


def test_arrays_are_named_by_their_number(spec: InputSpec) -> None:
    image, name = NamedImages(ITEMS, settle("timm", spec, "squash", augment=False))[7]
    assert (name, image.shape) == ("7", (3, 8, 8))


def test_padding_has_a_label_that_counts_for_nothing(dataset: LabelledImages) -> None:
    images, labels = dataset.__getitems__([3, PADDING])
    assert images.shape == (2, 3, 8, 8)
    assert labels.tolist() == [3, IGNORED]

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pcvpt.data.dataset import LabelledImages, NamedImages, whole
from pcvpt.data.samplers import IGNORED, PADDING, EpochSampler, OnceSampler
from pcvpt.data.splits import Item
from pcvpt.data.transforms import InputSpec, settle

ITEMS = [
    Item(np.random.default_rng(number).integers(0, 256, (12, 20, 3), dtype=np.uint8), number)
    for number in range(16)
]


@pytest.fixture
def dataset(spec: InputSpec) -> LabelledImages:
    return LabelledImages(ITEMS, settle("timm", spec, "crop", augment=True), seed=5)


def _epoch(dataset: LabelledImages, epoch: int, batch: int, world: int = 1, rank: int = 0,
           workers: int = 0) -> list[list[torch.Tensor]]:  # fmt: skip
    sampler = EpochSampler(dataset, world, rank, seed=5)
    loader = DataLoader(dataset, batch, sampler=sampler, num_workers=workers, collate_fn=whole)
    sampler.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("epoch", [0, 3])
def test_two_processes_see_the_global_batches_of_one(dataset: LabelledImages, epoch: int) -> None:
    one = _epoch(dataset, epoch, batch=4)
    two = zip(*(_epoch(dataset, epoch, batch=2, world=2, rank=r) for r in (0, 1)), strict=True)
    for (images, labels), parts in zip(one, two, strict=True):
        part_labels = torch.cat([part[1] for part in parts])
        part_images = torch.cat([part[0] for part in parts])
        assert torch.equal(labels.sort()[0], part_labels.sort()[0])
        assert torch.equal(images[labels.argsort()], part_images[part_labels.argsort()])


def test_each_epoch_shows_all_images_in_its_own_order(dataset: LabelledImages) -> None:
    orders = [torch.cat([b[1] for b in _epoch(dataset, e, batch=4)]).tolist() for e in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(16))


def test_persistent_workers_augment_as_the_main_process_does(dataset: LabelledImages) -> None:
    sampler = EpochSampler(dataset, 1, 0, seed=5)
    loader = DataLoader(
        dataset,
        4,
        sampler=sampler,
        num_workers=2,
        persistent_workers=True,
        collate_fn=whole,
    )
    for epoch in range(3):
        sampler.set_epoch(epoch)
        alone = _epoch(dataset, epoch, batch=4)
        for (images, labels), (expected, expected_labels) in zip(loader, alone, strict=True):
            assert torch.equal(labels, expected_labels)
            assert torch.equal(images, expected)


def test_augmentation_changes_with_epoch_and_seed(dataset: LabelledImages, spec: InputSpec) -> None:
    other = LabelledImages(ITEMS, dataset.steps, seed=6)
    for changed in dataset[1, 0], other[0, 0]:
        assert not torch.equal(dataset[0, 0][0], changed[0])
    assert torch.equal(dataset[0, 0][0], dataset[0, 0][0])


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


@pytest.mark.parametrize("world", [1, 2, 3, 5, 20])
def test_each_image_is_evaluated_once_and_all_processes_have_as_many_batches(
    spec: InputSpec, world: int
) -> None:
    dataset = LabelledImages(ITEMS, settle("timm", spec, "crop", augment=False))
    loaders = [
        DataLoader(
            dataset,
            2,
            sampler=OnceSampler(dataset, world, rank, shuffle=False),
            collate_fn=whole,
        )
        for rank in range(world)
    ]
    labels = [torch.cat([labels for _, labels in loader]) for loader in loaders]
    assert len({len(loader) for loader in loaders}) == 1
    assert len({len(part) for part in labels}) == 1
    together = torch.cat(labels)
    assert sorted(together[together != IGNORED].tolist()) == list(range(16))


def test_padding_has_a_label_that_counts_for_nothing(dataset: LabelledImages) -> None:
    images, labels = dataset.__getitems__([3, PADDING])
    assert images.shape == (2, 3, 8, 8)
    assert labels.tolist() == [3, IGNORED]

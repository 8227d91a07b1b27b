from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from factories import make_trainer
from torch import Tensor
from torch.utils.data import DataLoader

from miniature.images import write_noise
from pcvpt.data import (
    ImageDataModule,
    ImageFolderDataModule,
    InputSpec,
    Item,
    Splits,
    image_files,
)
from pcvpt.errors import UsageError

Data = Callable[..., ImageFolderDataModule]


class Recorder(lightning.LightningModule):
    """Learns nothing and remembers the training batches with their epoch."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.input_spec = spec
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[tuple[int, Tensor, Tensor]] = []

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        self.batches.append((self.current_epoch, images, labels))
        return self.weight * 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def data(folders: Path, spec: InputSpec) -> Data:
    def data(input_spec: InputSpec | None = spec, **options: Any) -> ImageFolderDataModule:
        made = ImageFolderDataModule(str(folders), **{"batch_size": 4, "num_workers": 0, **options})
        made.input_spec = input_spec
        return made

    return data


def _as_rank(data: ImageDataModule, rank: int, world: int) -> ImageDataModule:
    process: Any = SimpleNamespace(
        world_size=world,
        num_devices=world,
        global_rank=rank,
        lightning_module=None,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    data.trainer = process
    return data


def _labels(loader: DataLoader[Any]) -> list[int]:
    return [label for _, labels in loader for label in labels.tolist()]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_resumed_between_epochs_sees_the_same_batches(
    data: Data, spec: InputSpec, tmp_path: Path
) -> None:
    def fit(epochs: int, ckpt_path: Path | None = None) -> list[tuple[int, Tensor, Tensor]]:
        module = Recorder(spec)
        trainer = make_trainer(tmp_path, [], max_epochs=epochs, limit_val_batches=0)
        trainer.fit(module, data(), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        torch.rand(7)  # the state of the generator must not matter
        return module.batches

    uninterrupted, resumed = fit(3), fit(1) + fit(3, tmp_path / "last.ckpt")
    assert len(uninterrupted) == len(resumed) == 3 * 5
    for expected, found in zip(uninterrupted, resumed, strict=True):
        assert expected[0] == found[0]
        assert found[1].dtype == torch.float32
        assert all(map(torch.equal, expected[1:], found[1:]))


def test_data_that_are_used_again_take_the_size_and_mean_of_the_new_backbone(
    data: Data, spec: InputSpec, tmp_path: Path
) -> None:
    shared = data(None, cache="memory")
    other = replace(spec, image_size=(16, 16), mean=(0.0, 0.0, 0.0))
    for wanted in (spec, other, spec):
        module = Recorder(wanted)
        make_trainer(tmp_path, [], max_epochs=1, limit_val_batches=0).fit(module, shared)
        assert shared.preprocessing.mean == wanted.mean
        assert module.batches[0][1].shape[2:] == wanted.image_size


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_refused_with_its_image(data: Data, label: int) -> None:
    class Wrong(ImageFolderDataModule):
        def read_splits(self) -> Splits:
            right = super().read_splits()
            return replace(right, test=(Item(right.test[0].source, label),))

    wrong = Wrong(str(data().root))
    with pytest.raises(UsageError, match=rf"test: .*\.\w+ has the label {label}, .* 3 classes"):
        _ = wrong.splits


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_scoring_covers_each_training_image_once(data: Data, world: int) -> None:
    shards = [_as_rank(data(), rank, world).scoring_dataloader() for rank in range(world)]
    labels = [label for shard in shards for label in _labels(shard)]
    expected = [item.label for item in data().splits.train]
    assert labels == expected if world == 1 else sorted(labels) == sorted(expected)
    images, again = (torch.cat([batch[0] for s in shards for batch in s]) for _ in range(2))
    assert len(images.flatten(1).unique(dim=0)) == len(labels)
    assert torch.equal(images, again)


def test_iterating_leaves_the_generator_as_it_was(data: Data) -> None:
    state = torch.get_rng_state()
    for loader in data().train_dataloader(), data().val_dataloader(), data().scoring_dataloader():
        list(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_prediction_gives_images_with_their_files(
    data: Data, folders: Path, tmp_path: Path
) -> None:
    for name in "a.jpg", "deep/b.png":
        write_noise(tmp_path / "new" / name)
    for given in tmp_path / "new", tmp_path / "new" / "a.jpg", None:
        predicted = data(predict_images=given and str(given))
        found = list(predicted.predict_dataloader())
        expected = image_files.find_images(given or folders / "test", image_files.PassedOver())
        assert [item.source for item in predicted.items_to_check("predict")] == expected
        assert [name for _, names in found for name in names] == [str(path) for path in expected]
        assert found[0][0].shape[1:] == (3, 8, 8)


def test_the_interpolation_of_the_task_goes_before_the_backbone_s(
    data: Data, spec: InputSpec
) -> None:
    bilinear = replace(spec, interpolation="bilinear")
    assert data(bilinear).preprocessing != data(spec).preprocessing
    assert data(spec, interpolation="bilinear").preprocessing == data(bilinear).preprocessing


def test_a_folder_with_nothing_to_predict_is_named(data: Data, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in "empty", "none":
        with pytest.raises(UsageError, match=folder):
            data(predict_images=str(tmp_path / folder)).predict_dataloader()


def test_an_image_that_cannot_be_decoded_ends_the_run_before_training(
    data: Data, folders: Path, spec: InputSpec, tmp_path: Path
) -> None:
    (folders / "test" / "bee" / "00.jpg").write_text("no image")
    data(check_images=False).prepare_data()
    module = Recorder(spec)
    with pytest.raises(UsageError, match=r"1 of 26 images(.|\n)*bee/00\.jpg"):
        make_trainer(tmp_path, [], max_epochs=1).fit(module, data())
    assert not module.batches


def test_a_batch_larger_than_train_is_refused(data: Data) -> None:
    data(batch_size=17).setup("fit")  # val takes 3 of 20
    with pytest.raises(UsageError, match="batch_size 18 on 1 device"):
        data(batch_size=18).setup("fit")
    with pytest.raises(UsageError, match="batch_size 9 on 2 device"):
        _as_rank(data(batch_size=9), 0, 2).setup("fit")


def test_a_test_without_test_images_is_refused(data: Data, folders: Path) -> None:
    (folders / "test").rename(folders / "unused")
    with pytest.raises(UsageError, match="no test images"):
        data().test_dataloader()


def test_classes_are_known_before_setup_but_not_the_size_of_images(data: Data) -> None:
    assert data(None).class_names == ("ant", "bee", "cat")
    with pytest.raises(UsageError, match="input_spec"):
        data(None).setup("fit")


def test_options_out_of_range_are_named(data: Data) -> None:
    for option in "batch_size", "num_workers", "seed", "cache_gb":
        with pytest.raises(UsageError, match=option):
            data(**{option: -1})
    with pytest.raises(UsageError, match="num_workers"):
        data(num_workers=10**6)


def _batches(data: ImageFolderDataModule) -> list[Tensor]:
    train = data.train_dataloader()
    train.sampler.set_epoch(3)  # type: ignore[attr-defined]
    loaders = train, data.val_dataloader(), data.scoring_dataloader(), data.test_dataloader()
    return [data.on_after_batch_transfer(batch, 0)[0] for loader in loaders for batch in loader]


@pytest.mark.parametrize(
    ("cache", "resize", "augment"),
    [
        *product(["memory", "disk"], ["crop", "squash"], [True, False]),
        *product(["device"], ["crop", "squash"], [False]),
    ],
)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_cache_changes_no_pixel_of_any_batch(
    data: Data, cache: str, resize: str, augment: bool, workers: int, tmp_path: Path
) -> None:
    options = {"resize": resize, "augment": augment, "cache_folder": str(tmp_path / "cache")}
    without = data(**options)
    cached = data(**options, cache=cache, num_workers=workers)
    cached.prepare_data()
    for expected, found in zip(_batches(without), _batches(cached), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize(
    ("device", "given", "pinned"),
    [("cuda", None, True), ("cpu", None, False), ("cuda", False, False)],
)
def test_memory_is_pinned_where_the_trainer_uses_a_gpu(
    data: Data, device: str, given: bool | None, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    task: Any = data(pin_memory=given)
    assert task.val_dataloader().pin_memory is (given or False)
    task.trainer = SimpleNamespace(
        world_size=1,
        num_devices=1,
        global_rank=0,
        strategy=SimpleNamespace(root_device=torch.device(device)),
        lightning_module=None,
    )
    assert task.val_dataloader().pin_memory is pinned


def test_the_images_of_the_test_are_kept_on_disk_but_not_in_memory(
    data: Data, tmp_path: Path
) -> None:
    for cache in "memory", "disk":
        loader = data(cache=cache, cache_folder=str(tmp_path)).test_dataloader()
        assert (loader.dataset.pixels is None) == (cache == "memory")


def test_augmentation_on_the_host_is_refused_with_a_cache_on_the_device(data: Data) -> None:
    for option in "augment", "pin_memory":
        options = {"augment": False, "cache": "device"} | {option: True}
        with pytest.raises(UsageError, match=f"cache=device .*{option}=True"):
            data(**options)


def test_by_default_the_devices_of_a_machine_divide_its_cores(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    for devices, workers in (1, 12), (4, 3), (16, 1):
        made = _as_rank(data(num_workers=None), 0, devices)
        assert made.val_dataloader().num_workers == workers
    assert data(num_workers=5).val_dataloader().num_workers == 5

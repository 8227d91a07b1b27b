from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pcvpt.data import ImageDataModule, ImageFolderDataModule, InputSpec
from pcvpt.errors import UsageError

WriteImage = Callable[..., Path]


class Recorder(lightning.LightningModule):
    """Learns nothing and remembers the training batches by epoch."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.input_spec = spec
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[tuple[int, Tensor, Tensor]] = []

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        self.batches.append((self.current_epoch, images, labels))
        return self.weight * 0.0

    def predict_step(self, batch: tuple[Tensor, list[str]]) -> list[str]:
        return list(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _trainer(folder: Path, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def _task(folders: Path, spec: InputSpec | None = None, **options: Any) -> ImageFolderDataModule:
    task = ImageFolderDataModule(str(folders), **{"batch_size": 4, "num_workers": 0, **options})
    task.input_spec = spec
    return task


def _as_rank(task: ImageDataModule, rank: int, world: int) -> ImageDataModule:
    task.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=world, global_rank=rank, lightning_module=None
    )
    return task


def _labels(loader: DataLoader[Any]) -> list[int]:
    return [label for _, labels in loader for label in labels.tolist()]


def test_classes_are_known_before_setup(folders: Path) -> None:
    task = _task(folders)
    assert task.num_classes == 3
    assert task.class_names == ("ant", "bee", "cat")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_resumed_between_epochs_sees_the_same_batches(
    folders: Path, spec: InputSpec, tmp_path: Path
) -> None:
    whole, first, second = Recorder(spec), Recorder(spec), Recorder(spec)
    _trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(whole, _task(folders))
    trainer = _trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(first, _task(folders))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    torch.rand(7)  # the state of the generator must not matter
    _trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(
        second, _task(folders), ckpt_path=tmp_path / "last.ckpt"
    )
    resumed = first.batches + second.batches
    assert len(whole.batches) == len(resumed) == 3 * 5
    for expected, found in zip(whole.batches, resumed, strict=True):
        assert expected[0] == found[0]
        assert torch.equal(expected[1], found[1])
        assert torch.equal(expected[2], found[2])


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_scoring_covers_each_training_image_once(
    folders: Path, spec: InputSpec, world: int
) -> None:
    shards = [_as_rank(_task(folders, spec), r, world).scoring_dataloader() for r in range(world)]
    labels = [label for shard in shards for label in _labels(shard)]
    assert sorted(labels) == sorted(item.label for item in _task(folders).splits.train)
    images = torch.cat([images for shard in shards for images, _ in shard])
    assert len(images.flatten(1).unique(dim=0)) == len(labels)


def test_scoring_is_in_order_and_repeats_itself(folders: Path, spec: InputSpec) -> None:
    loader = _task(folders, spec, num_workers=2).scoring_dataloader()
    assert _labels(loader) == [item.label for item in _task(folders).splits.train]
    first, second = next(iter(loader))[0], next(iter(loader))[0]
    assert torch.equal(first, second)


def test_iterating_leaves_the_generator_as_it_was(folders: Path, spec: InputSpec) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    task = _task(folders, spec)
    for loader in task.train_dataloader(), task.val_dataloader(), task.scoring_dataloader():
        list(loader)
    assert torch.equal(torch.rand(3), expected)


def test_prediction_gives_images_with_their_files(
    folders: Path, spec: InputSpec, tmp_path: Path, write_image: WriteImage
) -> None:
    paths = [write_image(tmp_path / "new" / name) for name in ("a.jpg", "deep/b.png")]
    task = _task(folders, spec, predict_images=str(tmp_path / "new"))
    ((images, names),) = task.predict_dataloader()
    assert images.shape == (2, 3, 8, 8)
    assert list(names) == [str(path) for path in paths]


def test_prediction_takes_one_file_or_the_test_split(folders: Path, spec: InputSpec) -> None:
    file = folders / "test" / "bee" / "00.jpg"
    ((_, names),) = _task(folders, spec, predict_images=str(file)).predict_dataloader()
    assert list(names) == [str(file)]
    names = [n for _, batch in _task(folders, spec).predict_dataloader() for n in batch]
    assert names == [str(path) for path in sorted((folders / "test").rglob("*.jpg"))]


def test_the_trainer_predicts_each_image_once(
    folders: Path, spec: InputSpec, tmp_path: Path
) -> None:
    batches = _trainer(tmp_path).predict(Recorder(spec), _task(folders))
    names = [name for batch in batches or [] for name in batch]
    assert names == [str(path) for path in sorted((folders / "test").rglob("*.jpg"))]


def test_the_interpolation_of_the_task_goes_before_the_backbone_s(
    folders: Path, spec: InputSpec
) -> None:
    def first(**options: Any) -> Tensor:
        images, _ = next(iter(_task(folders, **options).val_dataloader()))
        assert isinstance(images, Tensor)
        return images

    bilinear = replace(spec, interpolation="bilinear")
    assert torch.equal(first(spec=spec, interpolation="bilinear"), first(spec=bilinear))
    assert not torch.equal(first(spec=spec, interpolation="bilinear"), first(spec=spec))


@pytest.mark.parametrize("folder", ["empty", "none"])
def test_a_folder_with_nothing_to_predict_is_named(
    folders: Path, spec: InputSpec, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    task = _task(folders, spec, predict_images=str(tmp_path / folder))
    with pytest.raises(UsageError, match=folder):
        task.predict_dataloader()


def test_an_image_that_cannot_be_decoded_ends_the_run_before_training(
    folders: Path, spec: InputSpec, tmp_path: Path
) -> None:
    (folders / "test" / "bee" / "00.jpg").write_text("no image")
    recorder = Recorder(spec)
    with pytest.raises(UsageError, match=r"1 of 26 images(.|\n)*bee/00\.jpg"):
        _trainer(tmp_path, max_epochs=1).fit(recorder, _task(folders))
    assert not recorder.batches


def test_the_check_of_images_can_be_left_out(folders: Path) -> None:
    (folders / "test" / "bee" / "00.jpg").write_text("no image")
    _task(folders, check_images=False).prepare_data()


def test_a_batch_larger_than_train_is_refused(folders: Path, spec: InputSpec) -> None:
    _task(folders, spec, batch_size=17).setup("fit")  # val takes 3 of 20
    with pytest.raises(UsageError, match="batch_size 18 on 1 device"):
        _task(folders, spec, batch_size=18).setup("fit")
    with pytest.raises(UsageError, match="batch_size 9 on 2 device"):
        _as_rank(_task(folders, spec, batch_size=9), 0, 2).setup("fit")


def test_a_test_without_test_images_is_refused(folders: Path, spec: InputSpec) -> None:
    (folders / "test").rename(folders / "unused")
    with pytest.raises(UsageError, match="no test images"):
        _task(folders, spec).test_dataloader()


def test_a_module_without_an_input_spec_is_refused(folders: Path) -> None:
    with pytest.raises(UsageError, match="input_spec"):
        _task(folders).setup("fit")


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"num_workers": -1}, {"seed": -1}])
def test_options_out_of_range_are_named(folders: Path, option: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        ImageFolderDataModule(str(folders), **option)

"""A named task: the layout that is there, what is trained on, and what is recorded of it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import lightning
import pytest
import torch
from torch import Tensor

from miniature import fgvc, lists
from miniature.images import write_noise
from pcvpt.data import DTD, BenchmarkDataModule, InputSpec, StanfordCars, Task
from pcvpt.errors import UsageError


class SmallDTD(DTD):
    row: ClassVar[Task] = lists.row("dtd")


class SmallCars(StanfordCars):
    row: ClassVar[Task] = lists.row("cars")


@pytest.fixture
def dtd(tmp_path: Path) -> Path:
    lists.write(SmallDTD.row, tmp_path / "vtab-1k" / "dtd")
    return tmp_path


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    folder = tmp_path / "stanford_cars"
    folder.mkdir()
    fgvc.write_json(folder, "cars", per_class=10, val=False)
    return tmp_path


def _labels(items: Any) -> list[int]:
    return [item.label for item in items]


def test_the_number_of_classes_needs_no_files(tmp_path: Path) -> None:
    assert StanfordCars(str(tmp_path)).num_classes == 196
    assert DTD(str(tmp_path)).num_classes == 47


def test_vtab_trains_on_the_800_or_on_all_the_thousand(dtd: Path) -> None:
    task = SmallDTD(str(dtd))
    assert task.held_out
    assert tuple(_labels(task.splits.train)) == lists.LABELS["train"]
    assert tuple(_labels(task.splits.val)) == lists.LABELS["val"]
    both = SmallDTD(str(dtd), split="train800val200")
    assert not both.held_out
    assert tuple(_labels(both.splits.train)) == lists.LABELS["train"] + lists.LABELS["val"]
    assert both.splits.val == task.splits.val


@pytest.mark.parametrize("split", ["test", "val", "train", ""])
def test_nothing_else_may_be_trained_on(dtd: Path, split: str) -> None:
    with pytest.raises(UsageError, match="dtd trains on train800 or train800val200"):
        SmallDTD(str(dtd), split=split)


def test_a_suite_has_its_own_geometry(dtd: Path, spec: InputSpec) -> None:
    vtab, fine = SmallDTD(str(dtd)), SmallCars(str(dtd))
    assert (vtab.resize, vtab.augment, vtab.protocol) == ("squash", False, "vpt")
    assert (fine.resize, fine.augment, fine.protocol) == ("crop", True, "vpt")
    other = SmallDTD(str(dtd), resize="crop", augment=True, protocol="raw")
    other.input_spec = spec
    assert str(other.preprocessing).startswith("short side 9, crop 8x8 (at random")


def test_where_nothing_is_the_error_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        SmallDTD(str(tmp_path)).splits  # noqa: B018
    said = str(error.value)
    assert "pcvpt data get dtd" in said
    for layout in "lists: ", "tfds: ", "torchvision: ":
        assert f"\n  {layout}" in said
    assert "json: " not in said


def test_a_layout_that_a_task_does_not_have_is_refused(dtd: Path) -> None:
    with pytest.raises(UsageError, match=r"dtd .*lists, tfds, torchvision"):
        SmallDTD(str(dtd), layout="json").splits  # noqa: B018


def _prepare(task: BenchmarkDataModule, spec: InputSpec) -> BenchmarkDataModule:
    task.input_spec = spec
    task.prepare_data()
    return task


def test_of_two_layouts_the_first_is_taken_and_both_are_named(
    cars: Path, spec: InputSpec, caplog: pytest.LogCaptureFixture
) -> None:
    lists.write(SmallCars.row, cars / "cars")
    task = SmallCars(str(cars))
    with caplog.at_level("INFO"):
        _prepare(task, spec)
    assert re.search(r"taking json in .*stanford_cars; .*lists in .*cars", caplog.text)
    chosen = SmallCars(str(cars), layout="lists")
    assert tuple(_labels(chosen.splits.train)) == lists.LABELS["train"]


def test_without_a_list_of_val_a_tenth_is_divided_off_and_recorded(
    cars: Path, spec: InputSpec
) -> None:
    task = SmallCars(str(cars))
    assert sorted(_labels(task.splits.val)) == [0, 1, 2]
    assert len(task.splits.train) == 27
    _prepare(task, spec)
    (record,) = (cars / "stanford_cars").glob("pcvpt-val-*.json")
    written = json.loads(record.read_text())
    assert "Not the division of the VPT release" in written["note"]
    assert sorted(written["val"]) == sorted(
        path.relative_to(cars / "stanford_cars").as_posix()
        for path in (item.source for item in task.splits.val)
        if isinstance(path, Path)
    )
    assert any("not the division of the VPT release" in n for n in task.describe()["notes"])


def test_a_recorded_division_is_kept_when_images_are_added(cars: Path, spec: InputSpec) -> None:
    before = _prepare(SmallCars(str(cars)), spec).splits.val
    listing = cars / "stanford_cars" / "train.json"
    content = json.loads(listing.read_text())
    write_noise(cars / "stanford_cars" / "new.jpg", 999)
    listing.write_text(json.dumps({"new.jpg": 1, **content}))
    assert SmallCars(str(cars)).splits.val == before
    assert len(SmallCars(str(cars)).splits.train) == 28


@pytest.mark.parametrize("damage", ["{", '{"val": ["gone.jpg"]}', "[]", '{"val": [[]]}'])
def test_a_record_that_does_not_fit_is_named(cars: Path, spec: InputSpec, damage: str) -> None:
    _prepare(SmallCars(str(cars)), spec)
    (record,) = (cars / "stanford_cars").glob("pcvpt-val-*.json")
    record.write_text(damage)
    with pytest.raises(UsageError, match=r"pcvpt-val-0\.1-seed0\.json.*delete it"):
        SmallCars(str(cars)).splits  # noqa: B018


def test_trainval_is_all_of_train(cars: Path) -> None:
    task = SmallCars(str(cars), split="trainval")
    assert len(task.splits.train) == 30
    assert set(task.splits.val) <= set(task.splits.train)


def test_a_fit_leaves_the_test_images_to_verify(dtd: Path, spec: InputSpec) -> None:
    folder = dtd / "vtab-1k" / "dtd" / "images"
    (folder / "test" / "000000.jpg").write_text("no image")
    _prepare(SmallDTD(str(dtd)), spec)
    (folder / "val200" / "000000.jpg").write_text("no image")
    with pytest.raises(UsageError, match=r"val200/000000\.jpg"):
        _prepare(SmallDTD(str(dtd)), spec)


def test_images_that_are_missing_are_counted(dtd: Path, spec: InputSpec) -> None:
    task = DTD(str(dtd))
    task.input_spec = spec
    notes = " ".join(task.describe()["notes"])
    assert "train and val has 9 images here, 1,000 in the published task" in notes
    assert "test has 4 images here, 1,880" in notes
    assert "published task" not in " ".join(_prepare(SmallDTD(str(dtd)), spec).describe()["notes"])


def test_a_file_of_a_layout_that_is_missing_can_be_seen_from_the_error(dtd: Path) -> None:
    (dtd / "vtab-1k" / "dtd" / "train800.txt").unlink()
    with pytest.raises(UsageError, match=r"dtd holds images, test\.txt, train800val200"):
        SmallDTD(str(dtd)).splits  # noqa: B018


def test_a_description_says_what_was_seen(dtd: Path, spec: InputSpec) -> None:
    task = _prepare(SmallDTD(str(dtd)), spec)
    described = task.describe()
    assert described["task"] == "dtd"
    assert described["split"] == "train800"
    assert described["images"] == {"train": 6, "val": 3, "test": 4}
    assert described["protocol"] == "vpt"
    assert "resized to 8x8, aspect not kept, tf1" in described["preprocessing"]
    assert str(dtd / "vtab-1k" / "dtd") in described["source"]
    assert any("re-saved as JPEG" in note for note in described["notes"])


def test_a_task_can_be_moved(dtd: Path, tmp_path: Path) -> None:
    shutil.move(dtd / "vtab-1k" / "dtd", tmp_path / "elsewhere")
    assert len(SmallDTD(str(tmp_path / "elsewhere")).splits.train) == 6


class _Idle(lightning.LightningModule):
    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.input_spec = spec
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []

    def training_step(self, batch: list[Tensor]) -> Tensor:
        self.seen.append(batch[0])
        return self.weight * 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_step_gets_normalised_images(dtd: Path, spec: InputSpec) -> None:
    module = _Idle(spec)
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=dtd, logger=False, max_epochs=1, limit_val_batches=0,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, SmallDTD(str(dtd), batch_size=3, num_workers=0, cache="memory"))
    images = torch.cat(module.seen)
    assert images.dtype == torch.float32
    assert images.shape == (6, 3, 8, 8)
    assert images.min() < 0 < images.max() < 3

"""A task of the table: its layout, the images it trains on, and its description."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from miniature import fgvc, lists
from miniature.images import write_noise
from pcvpt.data import DTD, BenchmarkDataModule, InputSpec, StanfordCars, settle
from pcvpt.data.splits import Classes
from pcvpt.errors import UsageError

TRAIN, VAL = lists.LABELS["train"], lists.LABELS["val"]


class SmallDTD(DTD, row=lists.row("dtd")): ...


class SmallCars(StanfordCars, row=lists.row("cars")): ...


@pytest.fixture
def dtd(tmp_path: Path) -> Path:
    """A root with DTD in lists."""
    lists.write(SmallDTD.row, tmp_path / "vtab-1k" / "dtd")
    return tmp_path


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    """A root with Cars in JSON splits, without val."""
    fgvc.write_json(tmp_path / "stanford_cars", "cars", per_class=10, val=False)
    return tmp_path


def _labels(items: Any) -> tuple[int, ...]:
    return tuple(item.label for item in items)


def _prepare(data: BenchmarkDataModule, spec: InputSpec) -> BenchmarkDataModule:
    data.input_spec = spec
    data.prepare_data()
    return data


def test_vtab_trains_on_the_800_or_on_all_the_thousand_and_nothing_else(dtd: Path) -> None:
    data, both = SmallDTD(str(dtd)), SmallDTD(str(dtd), split="train800val200")
    assert (data.held_out, both.held_out) == (True, False)
    assert (_labels(data.splits.train), _labels(data.splits.val)) == (TRAIN, VAL)
    assert (_labels(both.splits.train), both.splits.val) == (TRAIN + VAL, data.splits.val)
    for split in "test", "val", "train", "":
        with pytest.raises(UsageError, match=r"split.*dtd.*train800 or train800val200"):
            SmallDTD(str(dtd), split=split)


def test_a_suite_has_its_own_geometry_and_classes_which_need_no_files(spec: InputSpec) -> None:
    vtab, fgvc = DTD("none"), StanfordCars("none")
    assert (vtab.num_classes, fgvc.num_classes) == (47, 196)
    assert (vtab.resize, vtab.augment, vtab.protocol) == ("squash", False, "vpt")
    assert (fgvc.resize, fgvc.augment, fgvc.protocol) == ("crop", True, "vpt")
    other = DTD("none", resize="crop", augment=True, protocol="raw")
    other.input_spec = spec
    assert other.preprocessing == settle("raw", spec, "crop", augment=True)


def test_where_no_layout_is_found_the_error_tells_what_was_searched_for(dtd: Path) -> None:
    with pytest.raises(UsageError, match=r"dtd .*lists, tfds, torchvision"):
        SmallDTD(str(dtd), layout="json").read_splits()
    (dtd / "vtab-1k" / "dtd" / "train800.txt").unlink()
    with pytest.raises(UsageError, match="pcvpt data get dtd") as error:
        SmallDTD(str(dtd)).read_splits()
    assert re.findall(r"\n  (\w+): ", str(error.value)) == ["lists", "tfds", "torchvision"]
    assert "dtd holds images, test.txt, train800val200.txt" in str(error.value)


def test_of_two_layouts_the_first_is_taken_and_both_are_named(
    cars: Path, spec: InputSpec, caplog: pytest.LogCaptureFixture
) -> None:
    lists.write(SmallCars.row, cars / "cars")
    with caplog.at_level("INFO"):
        _prepare(SmallCars(str(cars)), spec)
    assert re.search(r"json in .*stanford_cars; .*lists in .*cars", caplog.text)
    assert _labels(SmallCars(str(cars), layout="lists").splits.train) == TRAIN


def test_without_a_list_of_val_a_tenth_is_divided_off_recorded_and_kept(
    cars: Path, spec: InputSpec
) -> None:
    data, folder = SmallCars(str(cars)), cars / "stanford_cars"
    val = data.splits.val
    assert (sorted(_labels(val)), len(data.splits.train)) == ([0, 1, 2], 27)
    _prepare(data, spec)
    assert any("not the division of the VPT release" in note for note in data.describe()["notes"])
    (record,) = folder.glob("pcvpt-val-*.json")
    assert [folder / name for name in json.loads(record.read_text())["val"]] == [
        item.source for item in val
    ]
    # The division stays when images are added, and a damaged record is named.
    listing = folder / "train.json"
    fgvc.write_noise(folder / "new.jpg", 999)
    listing.write_text(json.dumps({"new.jpg": 1, **json.loads(listing.read_text())}))
    again = _prepare(SmallCars(str(cars)), spec).splits
    assert (again.val, len(again.train)) == (val, 28)
    for damage in "{", '{"val": ["gone.jpg"]}', "[]", '{"val": [[]]}':
        record.write_text(damage)
        with pytest.raises(UsageError, match=rf"{re.escape(record.name)}.*delete it"):
            SmallCars(str(cars)).read_splits()


def test_trainval_is_all_of_train(cars: Path) -> None:
    splits = SmallCars(str(cars), split="trainval").splits
    assert len(splits.train) == 30
    assert set(splits.val) <= set(splits.train)


def test_a_fit_leaves_the_test_images_to_verify(dtd: Path, spec: InputSpec) -> None:
    folder = dtd / "vtab-1k" / "dtd" / "images"
    (folder / "test" / "000000.jpg").write_text("no image")
    _prepare(SmallDTD(str(dtd)), spec)
    (folder / "val200" / "000000.jpg").write_text("no image")
    with pytest.raises(UsageError, match=r"val200/000000\.jpg"):
        _prepare(SmallDTD(str(dtd)), spec)


def test_the_description_tells_what_was_used_and_counts_what_is_missing(
    dtd: Path, spec: InputSpec
) -> None:
    data = _prepare(DTD(str(dtd)), spec)
    described = data.describe()
    assert (described["task"], described["split"]) == ("dtd", "train800")
    assert described["images"] == {"train": 6, "val": 3, "test": 4}
    assert (described["protocol"], described["classes"]) == ("vpt", 47)
    assert described["preprocessing"] == str(data.preprocessing)
    assert str(dtd / "vtab-1k" / "dtd") in described["source"]
    known, train, test = described["notes"]
    assert "re-saved as JPEG" in known
    assert "train and val has 9 images here, 1,000" in train
    assert "test has 4 images here, 1,880" in test
    assert len(SmallDTD(str(dtd)).notes) == 1


def test_a_task_has_the_same_labels_in_each_layout_whatever_their_names(dtd: Path) -> None:
    data = SmallDTD(str(dtd))
    expected = data.splits
    data.use_classes(Classes(("banded", "dotted"), task="dtd"))  # as another layout names them
    assert (data.splits, data.class_names) == (expected, expected.class_names)
    assert data.classes == (expected.class_names, "dtd")
    data.use_classes(Classes(("banded", "dotted"), task="pets"))
    with pytest.raises(UsageError, match="was not trained on the classes"):
        _ = data.splits


def test_own_images_are_predicted_where_those_of_the_task_are_gone(
    tmp_path: Path, spec: InputSpec
) -> None:
    write_noise(tmp_path / "photo.png", 0)
    data = SmallDTD(str(tmp_path / "gone"), predict_images=str(tmp_path / "photo.png"))
    state = SimpleNamespace(fn="predict")
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    given = {"state": state, "num_devices": 1, "strategy": strategy, "lightning_module": None}
    data.trainer = cast(Any, SimpleNamespace(**given))
    _prepare(data, spec)
    assert len(data.predict_dataloader()) == 1

"""A task of the table: its layout, the images it trains on, and its description."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from miniature import fgvc, lists
from pcvpt.data import DTD, BenchmarkDataModule, InputSpec, StanfordCars
from pcvpt.errors import UsageError


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
    folder = tmp_path / "stanford_cars"
    folder.mkdir()
    fgvc.write_json(folder, "cars", per_class=10, val=False)
    return tmp_path


def _labels(items: Any) -> tuple[int, ...]:
    return tuple(item.label for item in items)


def _prepare(data: BenchmarkDataModule, spec: InputSpec) -> BenchmarkDataModule:
    data.input_spec = spec
    data.prepare_data()
    return data


def _record(cars: Path) -> Path:
    (record,) = (cars / "stanford_cars").glob("pcvpt-val-*.json")
    return record


def test_the_number_of_classes_needs_no_files(tmp_path: Path) -> None:
    assert StanfordCars(str(tmp_path)).num_classes == 196
    assert DTD(str(tmp_path)).num_classes == 47


def test_vtab_trains_on_the_800_or_on_all_the_thousand(dtd: Path) -> None:
    data = SmallDTD(str(dtd))
    assert data.held_out
    train, val = lists.LABELS["train"], lists.LABELS["val"]
    assert (_labels(data.splits.train), _labels(data.splits.val)) == (train, val)
    both = SmallDTD(str(dtd), split="train800val200")
    assert not both.held_out
    assert _labels(both.splits.train) == train + val
    assert both.splits.val == data.splits.val


@pytest.mark.parametrize("split", ["test", "val", "train", ""])
def test_nothing_else_may_be_trained_on(dtd: Path, split: str) -> None:
    with pytest.raises(UsageError, match=r"split.*dtd.*train800 or train800val200"):
        SmallDTD(str(dtd), split=split)


def test_a_suite_has_its_own_geometry(dtd: Path, spec: InputSpec) -> None:
    vtab, fgvc = SmallDTD(str(dtd)), SmallCars(str(dtd))
    assert (vtab.resize, vtab.augment, vtab.protocol) == ("squash", False, "vpt")
    assert (fgvc.resize, fgvc.augment, fgvc.protocol) == ("crop", True, "vpt")
    other = SmallDTD(str(dtd), resize="crop", augment=True, protocol="raw")
    other.input_spec = spec
    assert str(other.preprocessing).startswith("short side 9, crop 8x8 (at random")


def test_where_nothing_is_the_error_lists_what_was_searched_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pcvpt data get dtd") as error:
        SmallDTD(str(tmp_path)).read_splits()
    for layout in "lists: ", "tfds: ", "torchvision: ":
        assert f"\n  {layout}" in str(error.value)
    assert "json: " not in str(error.value)


def test_a_layout_that_a_task_does_not_have_is_refused(dtd: Path) -> None:
    with pytest.raises(UsageError, match=r"dtd .*lists, tfds, torchvision"):
        SmallDTD(str(dtd), layout="json").read_splits()


def test_a_file_of_a_layout_that_is_missing_can_be_seen_from_the_error(dtd: Path) -> None:
    (dtd / "vtab-1k" / "dtd" / "train800.txt").unlink()
    with pytest.raises(UsageError, match=r"dtd holds images, test\.txt, train800val200"):
        SmallDTD(str(dtd)).read_splits()


def test_of_two_layouts_the_first_is_taken_and_both_are_named(
    cars: Path, spec: InputSpec, caplog: pytest.LogCaptureFixture
) -> None:
    lists.write(SmallCars.row, cars / "cars")
    with caplog.at_level("INFO"):
        _prepare(SmallCars(str(cars)), spec)
    assert re.search(r"json in .*stanford_cars; .*lists in .*cars", caplog.text)
    chosen = SmallCars(str(cars), layout="lists")
    assert _labels(chosen.splits.train) == lists.LABELS["train"]


def test_without_a_list_of_val_a_tenth_is_divided_off_and_recorded(
    cars: Path, spec: InputSpec
) -> None:
    data = SmallCars(str(cars))
    assert sorted(_labels(data.splits.val)) == [0, 1, 2]
    assert len(data.splits.train) == 27
    _prepare(data, spec)
    written = json.loads(_record(cars).read_text())
    assert "Not the division of the VPT release" in written["note"]
    folder = cars / "stanford_cars"
    assert [folder / name for name in written["val"]] == [i.source for i in data.splits.val]
    assert any("not the division of the VPT release" in n for n in data.describe()["notes"])


def test_a_recorded_division_is_kept_when_images_are_added(cars: Path, spec: InputSpec) -> None:
    before = _prepare(SmallCars(str(cars)), spec).splits.val
    listing = cars / "stanford_cars" / "train.json"
    content = json.loads(listing.read_text())
    fgvc.write_noise(cars / "stanford_cars" / "new.jpg", 999)
    listing.write_text(json.dumps({"new.jpg": 1, **content}))
    assert SmallCars(str(cars)).splits.val == before
    assert len(SmallCars(str(cars)).splits.train) == 28


@pytest.mark.parametrize("damage", ["{", '{"val": ["gone.jpg"]}', "[]", '{"val": [[]]}'])
def test_a_record_that_does_not_fit_is_named(cars: Path, spec: InputSpec, damage: str) -> None:
    _prepare(SmallCars(str(cars)), spec)
    record = _record(cars)
    record.write_text(damage)
    with pytest.raises(UsageError, match=rf"{re.escape(record.name)}.*delete it"):
        SmallCars(str(cars)).read_splits()


def test_trainval_is_all_of_train(cars: Path) -> None:
    data = SmallCars(str(cars), split="trainval")
    assert len(data.splits.train) == 30
    assert set(data.splits.val) <= set(data.splits.train)


def test_a_fit_leaves_the_test_images_to_verify(dtd: Path, spec: InputSpec) -> None:
    folder = dtd / "vtab-1k" / "dtd" / "images"
    (folder / "test" / "000000.jpg").write_text("no image")
    _prepare(SmallDTD(str(dtd)), spec)
    (folder / "val200" / "000000.jpg").write_text("no image")
    with pytest.raises(UsageError, match=r"val200/000000\.jpg"):
        _prepare(SmallDTD(str(dtd)), spec)


def test_the_description_tells_what_was_used(dtd: Path, spec: InputSpec) -> None:
    described = _prepare(SmallDTD(str(dtd)), spec).describe()
    assert (described["task"], described["split"]) == ("dtd", "train800")
    assert described["images"] == {"train": 6, "val": 3, "test": 4}
    assert described["protocol"] == "vpt"
    assert "resized to 8x8, aspect not kept, tf1" in described["preprocessing"]
    assert str(dtd / "vtab-1k" / "dtd") in described["source"]
    (note,) = described["notes"]
    assert "re-saved as JPEG" in note


def test_images_that_are_missing_are_counted(dtd: Path, spec: InputSpec) -> None:
    data = DTD(str(dtd))
    data.input_spec = spec
    _, train, test = data.describe()["notes"]
    assert "train and val has 9 images here, 1,000 in the published task" in train
    assert "test has 4 images here, 1,880" in test


def test_a_task_can_be_moved(dtd: Path, tmp_path: Path) -> None:
    shutil.move(dtd / "vtab-1k" / "dtd", tmp_path / "elsewhere")
    assert len(SmallDTD(str(tmp_path / "elsewhere")).splits.train) == 6

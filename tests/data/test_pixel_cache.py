from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcvpt.data import InputSpec, Preprocessing, settle
from pcvpt.data.image_files import load
from pcvpt.data.pixel_cache import cached
from pcvpt.data.splits import Item, Record
from pcvpt.errors import UsageError

WriteImage = Callable[..., Path]
WHERE = pytest.mark.parametrize("where", ["memory", "disk"])


@pytest.fixture
def items(tmp_path: Path, write_image: WriteImage) -> list[Item]:
    sizes = enumerate([(30, 20), (16, 48), (24, 24), (50, 11)])
    return [Item(write_image(tmp_path / f"{n}.png", n, size), n) for n, size in sizes]


@pytest.fixture
def squash(spec: InputSpec) -> Preprocessing:
    return settle("vpt", spec, "squash", augment=True)


@pytest.fixture
def crop(spec: InputSpec) -> Preprocessing:
    return settle("vpt", spec, "crop", augment=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@WHERE
def test_cached_pixels_are_those_of_the_files(
    items: list[Item], squash: Preprocessing, crop: Preprocessing, where: str, folder: Path
) -> None:
    for steps in squash, crop:
        pixels = cached(items, steps, folder if where == "disk" else None, 1)
        for index, item in enumerate(items):
            assert torch.equal(pixels[index], steps.resized(load(item.source)))
        batch = pixels.batch([2, 0])
        if steps is crop:
            assert batch is None  # of different sizes
        else:
            assert batch is not None
            assert torch.equal(batch[1], pixels[0])


def test_a_turned_photograph_has_its_place_in_the_cache(
    tmp_path: Path, crop: Preprocessing
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shot with the camera on its side
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    pixels = cached([Item(path, 0)], crop, None, None)
    assert pixels.sizes == [(18, 9)]
    assert pixels[0].shape == (3, 18, 9)


@WHERE
def test_records_and_arrays_are_cached_too(
    items: list[Item], crop: Preprocessing, where: str, folder: Path
) -> None:
    assert isinstance(items[1].source, Path)
    array = np.asarray(Image.open(items[0].source))
    store: Any = [array, items[1].source.read_bytes()]
    others = [Item(array, 0), Item(Record(store, 0, "a"), 0), Item(Record(store, 1, "b"), 1)]
    pixels = cached(others, crop, folder if where == "disk" else None, None)
    expected = cached(items, crop, None, None)
    for index, same in enumerate([0, 0, 1]):
        assert torch.equal(pixels[index], expected[same])


@WHERE
def test_what_does_not_fit_is_refused_before_a_file_is_read(
    spec: InputSpec, where: str, tmp_path: Path
) -> None:
    (tmp_path / "none.jpg").write_text("no image")
    steps = settle("vpt", replace(spec, image_size=(100, 100)), "squash", augment=True)
    items = [Item(tmp_path / "none.jpg", 0)] * 10
    with pytest.raises(UsageError, match=rf"cache: {where} needs 0\.00 GB for 10 images"):
        cached(items, steps, tmp_path if where == "disk" else None, budget=0.0002)


def test_a_budget_does_not_go_beyond_what_is_free(
    items: list[Item], squash: Preprocessing, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UsageError, match="cache: disk needs"):
        cached(items, squash, folder, 1)


def test_the_file_serves_later_runs_and_others(
    items: list[Item], squash: Preprocessing, folder: Path
) -> None:
    first = cached(items, squash, folder, 1)
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o044 == 0o044
    changed = file.stat().st_mtime_ns
    second = cached(items, squash, folder, 0)  # no budget to write anything
    assert file.stat().st_mtime_ns == changed
    assert torch.equal(first[3], second[3])


def test_a_changed_image_or_protocol_gets_a_new_file(
    items: list[Item], squash: Preprocessing, spec: InputSpec, folder: Path, write_image: WriteImage
) -> None:
    before = cached(items, squash, folder, 1)[0].clone()
    cached(items, settle("raw", spec, "squash", augment=False), folder, 1)
    assert len(list(folder.iterdir())) == 2
    assert isinstance(items[0].source, Path)
    write_image(items[0].source, seed=99, size=(30, 20))
    assert not torch.equal(cached(items, squash, folder, 1)[0], before)


def test_nothing_is_left_of_a_cache_that_was_not_finished(
    items: list[Item], squash: Preprocessing, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        cached([*items, Item(tmp_path / "broken.jpg", 0)], squash, folder, 1)
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_hold_the_cache_is_named(
    items: list[Item], squash: Preprocessing, folder: Path
) -> None:
    folder.write_text("a file, no folder")
    with pytest.raises(UsageError, match=r"cache/below: .* set cache_folder"):
        cached(items, squash, folder / "below", 1)


def test_writing_to_what_was_read_leaves_the_file_alone(
    items: list[Item], squash: Preprocessing, folder: Path
) -> None:
    cached(items, squash, folder, 1)[0].zero_()
    assert cached(items, squash, folder, 1)[0].any()

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pcvpt.data import ImageFolderDataModule, InputSpec, settle
from pcvpt.data.image_files import load
from pcvpt.data.pixel_cache import in_memory, on_disk
from pcvpt.data.splits import Item, Record
from pcvpt.data.transforms import Preprocessing, Resize
from pcvpt.errors import UsageError

WriteImage = Callable[..., Path]
CACHES = ["memory", "disk"]


@pytest.fixture
def items(tmp_path: Path, write_image: WriteImage) -> list[Item]:
    sizes = [(30, 20), (16, 48), (24, 24), (50, 11)]
    return [
        Item(write_image(tmp_path / "images" / f"{n}.png", n, size), n)
        for n, size in enumerate(sizes)
    ]


def _steps(spec: InputSpec, resize: Resize) -> Preprocessing:
    return settle("vpt", spec, resize, augment=True)


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("where", CACHES)
def test_cached_pixels_are_those_of_the_files(
    items: list[Item], spec: InputSpec, resize: Resize, where: str, tmp_path: Path
) -> None:
    steps = _steps(spec, resize)
    folder = tmp_path / "cache"
    pixels = in_memory(items, steps, 1) if where == "memory" else on_disk(items, steps, folder, 1)
    for index, item in enumerate(items):
        assert torch.equal(pixels[index], steps.resized(load(item.source)))
    batch = pixels.batch([2, 0])
    if resize == "crop":
        assert batch is None  # of different sizes
    else:
        assert batch is not None
        assert torch.equal(batch[1], pixels[0])


def test_a_turned_photograph_has_its_place_in_the_cache(tmp_path: Path, spec: InputSpec) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shot with the camera on its side
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    pixels = in_memory([Item(path, 0)], _steps(spec, "crop"), None)
    assert pixels.sizes == [(18, 9)]
    assert pixels[0].shape == (3, 18, 9)


class _Store:
    def __init__(self, images: list[Any]) -> None:
        self.images = images

    def __getitem__(self, index: int) -> Any:
        return self.images[index]


def test_records_and_arrays_are_cached_too(items: list[Item], spec: InputSpec) -> None:
    assert isinstance(items[1].source, Path)
    array = np.asarray(Image.open(items[0].source))
    held = _Store([array, items[1].source.read_bytes()])
    others = [Item(array, 0), Item(Record(held, 0, "a"), 0), Item(Record(held, 1, "b"), 1)]
    pixels = in_memory(others, _steps(spec, "crop"), None)
    expected = in_memory(items, _steps(spec, "crop"), None)
    for index, same in enumerate([0, 0, 1]):
        assert torch.equal(pixels[index], expected[same])


@pytest.mark.parametrize("where", CACHES)
def test_what_does_not_fit_is_refused_before_a_file_is_read(
    spec: InputSpec, where: str, tmp_path: Path
) -> None:
    (tmp_path / "none.jpg").write_text("no image")
    items = [Item(tmp_path / "none.jpg", 0)] * 10
    steps = _steps(replace(spec, image_size=(100, 100)), "squash")
    build = in_memory if where == "memory" else partial(on_disk, folder=tmp_path)
    with pytest.raises(UsageError, match=rf"cache: {where} needs 0\.00 GB for 10 images"):
        build(items, steps, budget=0.0002)


def test_the_disk_cache_serves_later_runs(
    items: list[Item], spec: InputSpec, tmp_path: Path
) -> None:
    steps = _steps(spec, "squash")
    first = on_disk(items, steps, tmp_path / "cache", 1)
    (file,) = (tmp_path / "cache").iterdir()
    changed = file.stat().st_mtime_ns
    second = on_disk(items, steps, tmp_path / "cache", 0)  # nothing may be written any more
    assert file.stat().st_mtime_ns == changed
    assert torch.equal(first[3], second[3])


def test_a_changed_image_or_protocol_is_cached_anew(
    items: list[Item], spec: InputSpec, tmp_path: Path, write_image: WriteImage
) -> None:
    folder = tmp_path / "cache"
    before = on_disk(items, _steps(spec, "squash"), folder, 1)[0].clone()
    on_disk(items, settle("raw", spec, "squash", augment=False), folder, 1)
    assert len(list(folder.iterdir())) == 2
    assert isinstance(items[0].source, Path)
    write_image(items[0].source, seed=99, size=(30, 20))
    assert not torch.equal(on_disk(items, _steps(spec, "squash"), folder, 1)[0], before)


def test_nothing_is_left_of_a_cache_that_was_not_finished(
    items: list[Item], spec: InputSpec, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        on_disk([*items, Item(broken, 0)], _steps(spec, "squash"), tmp_path / "cache", 1)
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_cannot_hold_the_cache_is_named(
    items: list[Item], spec: InputSpec, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/cache: the cache .* set cache_folder"):
        on_disk(items, _steps(spec, "squash"), tmp_path / "file" / "cache", 1)


def test_others_may_read_the_cache(items: list[Item], spec: InputSpec, tmp_path: Path) -> None:
    on_disk(items, _steps(spec, "squash"), tmp_path / "cache", 1)
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o044 == 0o044


def test_a_budget_does_not_go_beyond_what_is_free(
    items: list[Item], spec: InputSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = type("Usage", (), {"free": 100})()
    monkeypatch.setattr("pcvpt.data.pixel_cache.shutil.disk_usage", lambda _: free)
    with pytest.raises(UsageError, match="cache: disk needs"):
        on_disk(items, _steps(spec, "squash"), tmp_path / "cache", 1)


def test_writing_to_what_was_read_leaves_the_file_alone(
    items: list[Item], spec: InputSpec, tmp_path: Path
) -> None:
    steps = _steps(spec, "squash")
    on_disk(items, steps, tmp_path / "cache", 1)[0].zero_()
    assert on_disk(items, steps, tmp_path / "cache", 1)[0].any()


def _epochs(task: ImageFolderDataModule) -> list[Tensor]:
    batches = []
    for loader in task.train_dataloader(), task.val_dataloader(), task.scoring_dataloader():
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(3)
        batches += [task.on_after_batch_transfer(batch, 0)[0] for batch in loader]
    return batches


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_changes_no_pixel_of_any_batch(
    folders: Path, spec: InputSpec, cache: str, resize: str, augment: bool, workers: int,
    tmp_path: Path,
) -> None:  # fmt: skip
    def task(cache: str) -> ImageFolderDataModule:
        options: dict[str, Any] = {"cache": cache, "cache_folder": str(tmp_path / "cache")}
        made = ImageFolderDataModule(
            str(folders), batch_size=4, num_workers=workers, resize=resize, augment=augment,
            **options,
        )  # type: ignore[arg-type]  # fmt: skip
        made.input_spec = spec
        return made

    for plain, cached in zip(_epochs(task("none")), _epochs(task(cache)), strict=True):
        assert torch.equal(plain, cached)

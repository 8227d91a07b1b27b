import os
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from PIL import Image
from torch._subclasses import FakeTensorMode

from miniature.images import noise, write_noise
from pcvpt.data import InputSpec, Preprocessing, settle
from pcvpt.data.image_files import load
from pcvpt.data.pixel_cache import Pixels, cached, check_once
from pcvpt.data.splits import Item, Record
from pcvpt.data.transforms import Resize
from pcvpt.errors import UsageError

SIZES = [(20, 30, 3), (48, 16, 3), (24, 24, 3), (11, 50, 3)]


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    paths = [write_noise(tmp_path / f"{n}.png", n, size) for n, size in enumerate(SIZES)]
    return [Item(path, label) for label, path in enumerate(paths)]


@pytest.fixture
def squash(spec: InputSpec) -> Preprocessing:
    return settle("vpt", spec, "squash", augment=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(params=["memory", "disk", "device"])
def where(request: pytest.FixtureRequest, folder: Path) -> Path | torch.device | None:
    return {"disk": folder, "device": torch.device("cpu")}.get(request.param)


def test_cached_pixels_are_those_of_files_records_and_arrays(
    items: list[Item], spec: InputSpec, where: Path | torch.device | None, tmp_path: Path
) -> None:
    store = [noise(1, SIZES[1]), (tmp_path / "0.png").read_bytes()]
    items += [Item(store[0], 1), Item(Record(store, 0, "a"), 1), Item(Record(store, 1, "b"), 0)]
    for resize, augment in product(get_args(Resize), (True, False)):
        steps = settle("vpt", spec, resize, augment=augment)
        pixels = cached(items, steps, where, None)
        for index, same in enumerate([0, 1, 2, 3, 1, 1, 0]):
            image = steps.resized(load(items[same].source))
            assert torch.equal(pixels[index], image if augment else steps.cut(image))
        batch = pixels.batch([2, 0])
        assert (batch is None) == (resize == "crop" and augment)  # of different sizes
        assert batch is None or torch.equal(batch[1], pixels[0])


def test_a_batch_of_a_device_is_made_there() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        pixels = Pixels(torch.empty(3 * 3 * 4 * 5, dtype=torch.uint8, device="cuda"), [(4, 5)] * 3)
        batch = pixels.batch([2, 0])
    assert batch is not None
    assert (batch.device.type, batch.shape) == ("cuda", (2, 3, 4, 5))


def test_images_are_checked_once_until_they_change(
    items: list[Item], folder: Path, tmp_path: Path
) -> None:
    paths = [item.source for item in items if isinstance(item.source, Path)]
    check_once(paths, folder)
    whole = paths[0].stat()
    paths[0].write_bytes(bytes(whole.st_size))
    os.utime(paths[0], ns=(whole.st_atime_ns, whole.st_mtime_ns))
    check_once(paths, folder)  # nothing tells that it was damaged, and it is not read
    os.utime(paths[0])
    for _ in range(2):
        with pytest.raises(UsageError, match=r"0\.png"):
            check_once(paths, folder)


def test_a_turned_photograph_has_its_place_in_the_cache(tmp_path: Path, spec: InputSpec) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shot with the camera on its side
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    crop = settle("vpt", spec, "crop", augment=True)
    pixels = cached([Item(tmp_path / "turned.jpg", 0)], crop, None, None)
    assert pixels.sizes == [pixels[0].shape[1:]] == [(18, 9)]


def test_what_does_not_fit_is_refused_before_a_file_is_read(
    squash: Preprocessing,
    where: Path | torch.device | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "none.jpg").write_text("no image")
    items = [Item(tmp_path / "none.jpg", 0)] * 10
    name = {Path: "disk", torch.device: "device", type(None): "memory"}
    message = next(
        rf"cache: {n} needs 0\.00 GB" for kind, n in name.items() if isinstance(where, kind)
    )
    with pytest.raises(UsageError, match=message):
        cached(items, squash, where, budget=1e-6)
    if isinstance(where, Path):  # a budget does not go beyond what is free
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(UsageError, match=message):
            cached(items, squash, where, budget=1)


def test_the_file_serves_later_runs_and_others_and_is_never_changed(
    items: list[Item], squash: Preprocessing, folder: Path
) -> None:
    first = cached(items, squash, folder, 1)[3].clone()
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o044 == 0o044
    changed = file.stat().st_mtime_ns
    second = cached(items, squash, folder, 0)[3]  # no budget to write anything
    assert torch.equal(first, second)
    second.zero_()
    assert torch.equal(first, cached(items, squash, folder, 1)[3])
    assert file.stat().st_mtime_ns == changed


def test_a_changed_image_or_protocol_gets_a_new_file(
    items: list[Item], squash: Preprocessing, spec: InputSpec, folder: Path, tmp_path: Path
) -> None:
    before = cached(items, squash, folder, 1)[0].clone()
    cached(items, settle("raw", spec, "squash", augment=False), folder, 1)
    assert len(list(folder.iterdir())) == 2
    write_noise(tmp_path / "0.png", 99, SIZES[0])
    assert not torch.equal(cached(items, squash, folder, 1)[0], before)


def test_a_cache_that_cannot_be_written_is_named_and_leaves_nothing(
    items: list[Item], squash: Preprocessing, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        cached([*items, Item(tmp_path / "broken.jpg", 0)], squash, folder, 1)
    assert not list(folder.iterdir())
    with pytest.raises(UsageError, match=r"0\.png/below: .* set cache_folder"):
        cached(items, squash, tmp_path / "0.png" / "below", 1)

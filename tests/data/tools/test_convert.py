import errno
import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniature.lists import noise, row
from pcvpt.data.hashes import digest
from pcvpt.data.image_files import load
from pcvpt.data.layouts.base import TaskSplits
from pcvpt.data.layouts.lists import LAYOUT
from pcvpt.data.splits import Item, Record
from pcvpt.data.tools.convert import convert
from pcvpt.data.tools.manifest import read_manifest
from pcvpt.data.tools.verify import verify
from pcvpt.errors import UsageError

PETS, CARS = row("pets"), row("cars")


def _encoded(seed: int, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(seed)).save(file, form)
    return file.getvalue()


@pytest.fixture
def reading(tmp_path: Path) -> TaskSplits:
    """Train from files, val from pixels, test from a store of JPEG, PNG and pixels."""
    folder = tmp_path / "original images"
    folder.mkdir()
    train = []
    for seed in range(6):
        form = ("jpeg", "png")[seed % 2]
        path = folder / f"my image {seed}.{form}"
        path.write_bytes(_encoded(seed, form))
        train.append(Item(path, seed % 3))
    pixels = noise(10), noise(11, (16, 24)), noise(12, (1, 1, 3))
    val = [Item(each, label) for label, each in enumerate(pixels)]
    store = [_encoded(20, "JPEG"), _encoded(21, "PNG"), noise(22, (9, 5)), noise(23)]
    test = [Item(Record(store, index, f"record {index}"), index % 3) for index in range(4)]
    names = ("Chat de gouttière", "ü 犬", "c")
    return TaskSplits(tuple(train), tuple(val), tuple(test), names, "a test", ("noted",))


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _splits(reading: TaskSplits) -> list[tuple[Item, ...]]:
    return [reading.train, reading.val or (), reading.test]


def test_pixels_labels_and_names_come_back_as_they_were(
    reading: TaskSplits, tmp_path: Path
) -> None:
    folder = convert(PETS, reading, tmp_path / "converted")
    assert folder == tmp_path / "converted/pets"
    assert LAYOUT.find(PETS, tmp_path / "converted") == folder
    again = LAYOUT.read(PETS, folder)
    assert again.class_names == reading.class_names
    assert again.source.endswith("converted from: a test")
    assert again.notes == ("noted",)
    for before, after in zip(_splits(reading), _splits(again), strict=True):
        assert [item.label for item in before] == [item.label for item in after]
        for one, other in zip(before, after, strict=True):
            assert np.array_equal(np.asarray(load(one.source)), np.asarray(load(other.source)))
    assert verify(PETS, again, folder).problems == ()


def test_image_files_are_copied_byte_by_byte(reading: TaskSplits, tmp_path: Path) -> None:
    files = _files(convert(PETS, reading, tmp_path))
    assert files["images/train800/000000.jpeg"] == _encoded(0, "JPEG")
    assert files["images/train800/000001.png"] == _encoded(1, "PNG")
    assert files["images/test/000000.jpg"] == _encoded(20, "JPEG")
    assert files["images/test/000001.png"] == _encoded(21, "PNG")
    assert Image.open(io.BytesIO(files["images/val200/000001.png"])).mode == "L"


def test_the_lists_are_those_in_circulation(reading: TaskSplits, tmp_path: Path) -> None:
    files = _files(convert(PETS, reading, tmp_path))
    val = b"images/val200/000000.png 0\nimages/val200/000001.png 1\nimages/val200/000002.png 2\n"
    assert files["val200.txt"] == val
    assert files["train800val200.txt"] == files["train800.txt"] + val
    assert files["test.txt"].startswith(b"images/test/000000.jpg 0\nimages/test/000001.png 1\n")


def test_two_conversions_are_the_same_to_the_byte(reading: TaskSplits, tmp_path: Path) -> None:
    first = _files(convert(PETS, reading, tmp_path / "first"))
    assert first == _files(convert(PETS, reading, tmp_path / "second"))
    assert len(first) == 13 + 4 + 1


def test_splits_json_records_what_each_file_is(reading: TaskSplits, tmp_path: Path) -> None:
    folder = convert(PETS, reading, tmp_path)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.task, manifest.source, manifest.notes) == ("pets", "a test", ("noted",))
    assert list(manifest.splits) == ["train800", "val200", "test"]
    assert [len(rows) for rows in manifest.splits.values()] == [6, 3, 4]
    for rows in manifest.splits.values():
        assert all(digest(folder / row.path) == row.sha256 for row in rows)


def test_fgvc_without_val_gets_no_list_of_val(reading: TaskSplits, tmp_path: Path) -> None:
    undivided = replace(reading, val=None)
    folder = convert(CARS, undivided, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "images",
        "splits.json",
        "test.txt",
        "train.txt",
    ]
    assert LAYOUT.read(CARS, folder).val is None


def test_an_empty_split_is_refused(reading: TaskSplits, tmp_path: Path) -> None:
    undivided = replace(reading, val=None)
    with pytest.raises(UsageError, match=r"pets: val200 has no images"):
        convert(PETS, undivided, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_an_existing_folder_is_never_written_to(reading: TaskSplits, tmp_path: Path) -> None:
    before = _files(convert(PETS, reading, tmp_path))
    with pytest.raises(UsageError, match="pets exists"):
        convert(PETS, reading, tmp_path)
    assert _files(tmp_path / "pets") == before


def _converted_nothing(target: Path) -> bool:
    return list(target.iterdir()) == []


def test_an_interrupted_conversion_leaves_nothing(reading: TaskSplits, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert not (tmp_path / "converted" / "pets").exists()
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(PETS, reading, tmp_path / "converted", interrupt)
    assert _converted_nothing(tmp_path / "converted")


def test_an_image_that_cannot_be_read_is_named_and_leaves_nothing(
    reading: TaskSplits, tmp_path: Path
) -> None:
    Path(str(reading.train[3].source)).unlink()
    with pytest.raises(UsageError, match=r"my image 3\.png: cannot be read"):
        convert(PETS, reading, tmp_path / "converted")
    assert _converted_nothing(tmp_path / "converted")


def test_too_little_room_is_found_before_anything_is_written(
    reading: TaskSplits, tmp_path: Path, set_free: Callable[[int], None]
) -> None:
    set_free(20_000)
    with pytest.raises(UsageError, match=r"converted: .*pets.* 53,248 bytes.* 20,000"):
        convert(PETS, reading, tmp_path / "converted")
    assert _converted_nothing(tmp_path / "converted")


def test_a_disk_that_fills_up_leaves_nothing(
    reading: TaskSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "test" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match=r"converted: .*No space left on device"):
        convert(PETS, reading, tmp_path / "converted")
    assert _converted_nothing(tmp_path / "converted")


def test_a_target_that_is_a_file_is_named(reading: TaskSplits, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UsageError, match=r"taken: .*File exists"):
        convert(PETS, reading, tmp_path / "taken")


def test_names_of_folders_that_are_not_text_can_be_recorded(
    reading: TaskSplits, tmp_path: Path
) -> None:
    odd = os.fsdecode(b"\xff odd")
    manifest = read_manifest(convert(PETS, replace(reading, source=odd), tmp_path))
    assert manifest is not None
    assert manifest.source == odd


def test_progress_is_told_to_the_end(reading: TaskSplits, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    convert(PETS, reading, tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(number, 13) for number in range(1, 14)]

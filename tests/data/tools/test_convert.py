import errno
import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from miniature.images import noise
from miniature.lists import row
from miniature.reading import contents, same
from pcvpt.data.hashes import digest
from pcvpt.data.layouts.lists import LAYOUT
from pcvpt.data.layouts.manifest import read_manifest
from pcvpt.data.splits import Item, Record, TaskSplits
from pcvpt.data.tools.convert import convert
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


def test_pixels_labels_and_names_come_back_as_they_were(
    reading: TaskSplits, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    folder = convert(PETS, reading, tmp_path / "converted", lambda *now: told.append(now))
    assert told == [(number, 13) for number in range(1, 14)]
    assert LAYOUT.find(PETS, tmp_path / "converted") == folder == tmp_path / "converted/pets"
    again = LAYOUT.read(PETS, folder)
    assert again.class_names == reading.class_names
    assert again.source.endswith("converted from: a test")
    assert again.notes == ("noted",)
    for part in "train", "val", "test":
        same(getattr(again, part), getattr(reading, part))
    assert verify(PETS, again, folder).problems == ()


def test_files_are_copied_and_lists_and_record_name_them(
    reading: TaskSplits, tmp_path: Path
) -> None:
    folder = convert(PETS, reading, tmp_path)
    files = contents(folder)
    assert files["images/train800/000000.jpeg"] == _encoded(0, "JPEG")
    assert files["images/train800/000001.png"] == _encoded(1, "PNG")
    assert files["images/test/000000.jpg"] == _encoded(20, "JPEG")
    assert files["images/test/000001.png"] == _encoded(21, "PNG")
    assert Image.open(io.BytesIO(files["images/val200/000001.png"])).mode == "L"
    val = b"images/val200/000000.png 0\nimages/val200/000001.png 1\nimages/val200/000002.png 2\n"
    assert files["val200.txt"] == val
    assert files["train800val200.txt"] == files["train800.txt"] + val
    assert files["test.txt"].startswith(b"images/test/000000.jpg 0\nimages/test/000001.png 1\n")
    manifest = read_manifest(folder)
    assert manifest is not None
    counts = {name: len(rows) for name, rows in manifest.splits.items()}
    assert counts == {"train800": 6, "val200": 3, "test": 4}
    for rows in manifest.splits.values():
        assert all(digest(folder / row.path) == row.sha256 for row in rows)


def test_the_same_images_always_give_the_same_bytes(reading: TaskSplits, tmp_path: Path) -> None:
    odd = replace(reading, source=os.fsdecode(b"\xff odd"))  # a folder whose name is not text
    first = contents(convert(PETS, odd, tmp_path / "first"))
    assert first == contents(convert(PETS, odd, tmp_path / "second"))
    assert len(first) == 13 + 4 + 1
    assert LAYOUT.read(PETS, tmp_path / "first/pets").source.endswith(odd.source)


def test_fgvc_without_val_gets_no_list_of_val(reading: TaskSplits, tmp_path: Path) -> None:
    folder = convert(CARS, replace(reading, val=None), tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert names == {"images", "splits.json", "test.txt", "train.txt"}
    assert LAYOUT.read(CARS, folder).val is None


def test_an_existing_folder_is_never_written_to(reading: TaskSplits, tmp_path: Path) -> None:
    before = contents(convert(PETS, reading, tmp_path))
    with pytest.raises(UsageError, match="pets exists"):
        convert(PETS, reading, tmp_path)
    assert contents(tmp_path / "pets") == before


def test_an_interrupted_conversion_leaves_nothing(reading: TaskSplits, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert not (tmp_path / "converted" / "pets").exists()
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(PETS, reading, tmp_path / "converted", interrupt)
    assert list((tmp_path / "converted").iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no val", r"pets: val200 has no images"),
        ("missing image", r"my image 3\.png: cannot be read"),
        ("no room", r"converted: .*pets.* 53,248 bytes.* 20,000"),
        ("full disk", r"converted: .*No space left on device"),
        ("a file", r"converted: .*File exists"),
    ],
)
def test_a_conversion_that_fails_names_the_cause_and_leaves_nothing(
    reading: TaskSplits,
    tmp_path: Path,
    set_free: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    message: str,
) -> None:
    target = tmp_path / "converted"
    if fault == "no val":
        reading = replace(reading, val=None)
    elif fault == "missing image":
        Path(str(reading.train[3].source)).unlink()
    elif fault == "no room":
        set_free(20_000)
    elif fault == "a file":
        target.touch()
    elif fault == "full disk":

        def full(path: Path, content: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match=message):
        convert(PETS, reading, target)
    assert not target.is_dir() or list(target.iterdir()) == []

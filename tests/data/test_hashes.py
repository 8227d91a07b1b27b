import hashlib
from pathlib import Path

import numpy as np
import pytest

from miniature.images import noise
from pcvpt.data import DemoDataModule, Splits
from pcvpt.data.hashes import digest, split_hash, splits_hash
from pcvpt.data.splits import Item, Record
from pcvpt.errors import UsageError


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert digest(path) == digest(Record([b"abc"], 0, "a")) == expected


def test_the_digest_of_pixels_depends_on_shape_and_values_not_on_memory_order() -> None:
    pixels = noise(0, (4, 6))
    assert digest(pixels) == digest(np.asfortranarray(pixels)) == digest(Record([pixels], 0, "a"))
    assert digest(pixels) != digest(pixels.reshape(6, 4))
    assert digest(pixels) != digest(noise(1, (4, 6)))


def test_the_hash_of_a_split_depends_on_order_labels_and_content() -> None:
    items = [Item(noise(seed), seed % 2) for seed in range(3)]
    hashes = {
        split_hash(items),
        split_hash(items[::-1]),
        split_hash(items[:2]),
        split_hash([Item(items[0].source, 1), *items[1:]]),
        split_hash([Item(noise(9), 0), *items[1:]]),
    }
    assert len(hashes) == 5
    assert split_hash(items) == split_hash([Item(noise(seed), seed % 2) for seed in range(3)])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.jpg: cannot be read \(No such file"):
        digest(tmp_path / "none.jpg")


def test_the_hashes_in_results_of_finished_runs_keep_their_value(tmp_path: Path) -> None:
    demo = DemoDataModule()
    assert demo.hash == "9982fb3646540f20"
    assert split_hash(demo.splits.val).startswith("bfd7b1f77f6c9a38")


def _splits(folder: Path, content: bytes = b"123", label: int = 1) -> Splits:
    items = []
    for name in "a/x.jpg", "b/ü.jpg", "b/y.jpg":
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        items.append(Item(folder / name, label))
    record = Item(Record([b""], 0, "pets: record 0"), 0)
    return Splits((items[0], record), (items[1],), (items[2],), ("ant", "bee"))


def test_the_same_files_in_another_place_have_the_same_hash(tmp_path: Path) -> None:
    assert splits_hash(_splits(tmp_path / "one")) == splits_hash(_splits(tmp_path / "two"))
    assert splits_hash(_splits(tmp_path / "one")) == "d7acaadffda9e20e"
    others = _splits(tmp_path / "two", b"1234"), _splits(tmp_path / "three", label=0)
    assert len({splits_hash(each) for each in (_splits(tmp_path / "one"), *others)}) == 3

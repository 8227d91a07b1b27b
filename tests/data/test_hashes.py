import hashlib
from pathlib import Path

import numpy as np

from miniature.images import noise
from pcvpt.data import DemoDataModule, Splits
from pcvpt.data.hashes import digest, split_hash, splits_hash
from pcvpt.data.splits import Item, Record


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert digest(path) == digest(Record([b"abc"], 0, "a")) == expected


def test_the_digest_of_pixels_depends_on_shape_and_values_not_on_memory_order() -> None:
    pixels = noise(0, (4, 6))
    assert digest(pixels) == digest(np.asfortranarray(pixels)) == digest(Record([pixels], 0, "a"))
    assert len({digest(each) for each in (pixels, pixels.reshape(6, 4), noise(1, (4, 6)))}) == 3


def test_the_hash_of_a_split_depends_on_order_labels_and_content() -> None:
    pairs = [(0, "a"), (1, "b"), (0, "c")]
    others = pairs[::-1], pairs[:2], [(1, "a"), *pairs[1:]], [(0, "d"), *pairs[1:]]
    assert len({split_hash(each) for each in (pairs, *others)}) == 5


def test_the_hashes_in_results_of_finished_runs_keep_their_value() -> None:
    demo = DemoDataModule()
    assert demo.hash == "9982fb3646540f20"
    val = [(item.label, digest(item.source)) for item in demo.splits.val]
    assert split_hash(val).startswith("bfd7b1f77f6c9a38")


def _hash(folder: Path, content: bytes = b"123", label: int = 1) -> str:
    items = []
    for name in "a/x.jpg", "b/ü.jpg", "b/y.jpg":
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        items.append(Item(folder / name, label))
    record = Item(Record([b""], 0, "pets: record 0"), 0)
    return splits_hash(Splits((items[0], record), (items[1],), (items[2],), ("ant", "bee")))


def test_the_same_files_in_another_place_have_the_same_hash(tmp_path: Path) -> None:
    one, two = _hash(tmp_path / "one"), _hash(tmp_path / "two")
    assert one == two == "d7acaadffda9e20e"
    assert len({one, _hash(tmp_path / "two", b"1234"), _hash(tmp_path / "three", label=0)}) == 3

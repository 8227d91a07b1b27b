import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pcvpt.data.readers.listed_splits import read_json, read_json_splits
from pcvpt.errors import UsageError

Write = Callable[..., Path]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ids_are_numbers_or_digits_and_keep_their_order(
    root: Path, write: Write, mark: str
) -> None:
    expected = {"my cat.jpg": 7, "1.jpg": 0, "..a/b...jpg": 1}
    ids = read_json(write(mark + '{"my cat.jpg": 7, "1.jpg": "+0", "..a/b...jpg": 1}'), root)
    assert list(ids.items()) == [(root / name, class_id) for name, class_id in expected.items()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0.jpg": 1,\n "1.jpg" 2}', ":2:10: not JSON"),
        ("", ":1:1: not JSON"),
        ('["0.jpg"]', "not a JSON object"),
        ('[["0.jpg", 1]]', "not a JSON object"),
        ("{}", ": empty"),
        ("[" * 100_000, "nested too deeply"),
        (b'{"\xff": 1}', "not UTF-8"),
        ('{"0.jpg": -1}', "'0.jpg': label -1"),
        ('{"0.jpg": 1, "1.jpg": 2, "0.jpg": 1}', "0.jpg is listed twice"),
        ('{"0.jpg": 1, "./0.jpg": 1}', "0.jpg is listed twice"),
        ('{"/0.jpg": 1}', "'/0.jpg' leads out of"),
        ('{"C:\\\\0.jpg": 1}', "leads out of"),
        ('{"../images/0.jpg": 1}', "'../images/0.jpg' leads out of"),
        ('{"ant/../0.jpg": 1}', "leads out of"),
        ('{"ant\\\\..\\\\0.jpg": 1}', "leads out of"),
        ('{"": 1}', "1 of 1 listed images"),
        ('{"a\\u0000b": 1}', "1 of 1 listed images"),
        ('{"\\ud800": 1}', "1 of 1 listed images"),
        ('{"0.jpg": 1, "no": 1, "none": 1}', "2 of 3 listed images"),
    ],
)
def test_a_bad_file_is_named(root: Path, write: Write, text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=rf"train(.|\n)*{re.escape(message)}"):
        read_json(write(text), root)


@pytest.mark.parametrize(
    "value",
    ['"cat"', '"1.0"', '"1_0"', "9" * 5000, '""', "1.0", "true", "null", "NaN", "[1]", "{}"],
)
def test_an_id_that_is_not_an_integer_is_named(root: Path, write: Write, value: str) -> None:
    with pytest.raises(UsageError, match=r"train: '0\.jpg': label .* is not an integer"):
        read_json(write(f'{{"1.jpg": 0, "0.jpg": {value}}}'), root)


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ({"ant/0.jpg": 5, "ant/1.jpg": 5, "bee/0.jpg": 2}, ("bee", "ant")),
        ({"ant/0.jpg": 5, "bee/1.jpg": 5, "bee/0.jpg": 2}, ("2", "5")),
        ({"ant/0.jpg": 5, "ant/1.jpg": 2}, ("2", "5")),
        ({"bee/0.jpg": 5, "deep/bee/1.jpg": 2}, ("2", "5")),
        ({"0.jpg": 5, "ant/1.jpg": 2}, ("2", "5")),
    ],
)
def test_classes_are_named_after_folders_of_their_own(
    root: Path, write: Write, train: dict[str, int], names: tuple[str, ...]
) -> None:
    splits = read_json_splits(root, write(json.dumps(train)), None, None)
    assert splits.class_names == names

from collections.abc import Callable
from pathlib import Path

import pytest

from pcvpt.data.readers.listed_splits import read_list, read_list_splits
from pcvpt.errors import UsageError

Write = Callable[..., Path]


@pytest.mark.parametrize(
    "text",
    ["my cat.jpg 7\n1.jpg\t0", "\ufeffmy cat.jpg 7\r\n\r\n  \r\n1.jpg 0\r\n"],
    ids=["paths may hold blanks", "Windows line ends, a byte order mark and blank lines"],
)
def test_the_last_blank_divides_path_and_label(root: Path, write: Write, text: str) -> None:
    assert read_list(write(text), root) == {root / "my cat.jpg": 7, root / "1.jpg": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0.jpg 1\n\n1.jpg", ":3: '1.jpg' is one field"),
        ("0.jpg 1\n\n1.jpg cat", ":3: .* not an integer"),
        ("0.jpg 1\n\n1.jpg 4", ":3: .* too large"),
        ("0.jpg 1\n\n0.jpg 2", r":3: .*0\.jpg is listed twice, first in .*train:1"),
        ("0.jpg 1\n\nnone.jpg 1", r": 1 of 2 listed images do not exist(.|\n)*:3: .*none\.jpg"),
        ("0.jpg 1\n\n" + "x" * 5000 + " 1", r": 1 of 2 .* not exist(.|\n)*:3: "),
        ("0.jpg 1\n\na\0b 1", r": 1 of 2 .* not exist(.|\n)*:3: "),
        ("\n\n", ": empty"),
        (b"\xff\xfe\x00\x80", ": not UTF-8"),
    ],
)
def test_a_bad_line_or_file_is_named(
    root: Path, write: Write, content: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=f"train{message}"):
        read_list(write(content), root, num_classes=4)


def test_classes_have_the_names_of_their_labels(root: Path, write: Write) -> None:
    train, test = write("0.jpg 10\nant/1.jpg 2"), write("3.jpg 10", "test")
    splits = read_list_splits(root, train, None, test)
    assert splits.class_names == ("2", "10")
    assert splits.test == ((root / "3.jpg", 1),)

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcvpt.data.readers.list_files import read_list, read_list_files
from pcvpt.data.splits import Splits
from pcvpt.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with files that stand for images; lists are read without decoding."""
    for number in range(12):
        (tmp_path / f"{number}.jpg").touch()
    (tmp_path / "my cat.jpg").touch()
    return tmp_path


def _write(root: Path, text: str, name: str = "train.txt") -> Path:
    (root / name).write_bytes(text.encode())
    return root / name


def _read(root: Path, train: str, val: str | None, test: str | None = None) -> Splits:
    return read_list_files(
        root,
        _write(root, train, "train.txt"),
        _write(root, val, "val.txt") if val else None,
        _write(root, test, "test.txt") if test else None,
        val_fraction=0.25,
        split_seed=0,
    )


def test_the_last_blank_divides_path_and_label(root: Path) -> None:
    assert read_list(_write(root, "my cat.jpg 7\n1.jpg\t0"), root) == {
        root / "my cat.jpg": 7,
        root / "1.jpg": 0,
    }


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_are_accepted(root: Path) -> None:
    file = _write(root, "\ufeff0.jpg 1\r\n\r\n  \r\n1.jpg 2\r\n")
    assert read_list(file, root) == {root / "0.jpg": 1, root / "1.jpg": 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.jpg", "'1.jpg' is one field; expected 'path label'"),
        ("1.jpg cat", "label 'cat' is not an integer"),
        ("1.jpg 1.0", "label '1.0' is not an integer"),
        ("1.jpg 1_0", "label '1_0' is not an integer"),
        ("1.jpg " + "9" * 5000, "is not an integer"),
        ("1.jpg -1", "label -1 is negative"),
        ("0.jpg 2", "0.jpg is listed in line 1 too"),
        ("none.jpg 1", "none.jpg does not exist"),
        ("x" * 5000 + " 1", "does not exist"),
        ("a\0b 1", "does not exist"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(root: Path, line: str, message: str) -> None:
    file = _write(root, f"0.jpg 1\n\n{line}\n")
    with pytest.raises(UsageError, match=rf"train\.txt:3: .*{re.escape(message)}"):
        read_list(file, root)


def test_a_label_beyond_the_known_classes_is_named(root: Path) -> None:
    file = _write(root, "0.jpg 2\n1.jpg 3\n")
    assert read_list(file, root, num_classes=4)[root / "1.jpg"] == 3
    message = r"train\.txt:2: label 3 is too large; the 3 classes are numbered from 0 to 2"
    with pytest.raises(UsageError, match=message):
        read_list(file, root, num_classes=3)


def test_an_empty_list_is_named(root: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.txt: empty"):
        read_list(_write(root, "\n\n"), root)


def test_a_missing_list_is_named(root: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.txt: cannot be read"):
        read_list(root / "none.txt", root)


def test_a_list_that_is_no_text_is_named(root: Path) -> None:
    (root / "train.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match=r"train\.txt: not UTF-8"):
        read_list(root / "train.txt", root)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example writes it anew
)
@given(
    st.one_of(
        st.binary(),
        st.text().map(str.encode),
        st.lists(st.tuples(st.text() | st.just("0.jpg"), st.integers() | st.text())).map(
            lambda lines: "\n".join(f"{name} {label}" for name, label in lines).encode()
        ),
    )
)
def test_no_content_ends_in_another_error(root: Path, content: bytes) -> None:
    (root / "train.txt").write_bytes(content)
    with suppress(UsageError):
        labels = read_list(root / "train.txt", root)
        assert labels
        assert all(path.is_file() and label >= 0 for path, label in labels.items())


def test_one_label_map_from_train_serves_all_splits(root: Path) -> None:
    splits = _read(root, "0.jpg 10\n1.jpg 2\n2.jpg 5", "3.jpg 10", "4.jpg 5\n5.jpg 10")
    assert splits.class_names == ("2", "5", "10")
    assert [item.label for item in splits.train] == [2, 0, 1]
    assert [item.label for item in splits.val] == [2]
    assert [item.label for item in splits.test] == [1, 2]


def test_a_label_unknown_to_train_is_named(root: Path) -> None:
    with pytest.raises(UsageError, match=r"val\.txt: label 3 of .*4\.jpg does not occur"):
        _read(root, "0.jpg 0\n1.jpg 1", "3.jpg 0\n4.jpg 3")


def test_without_a_val_list_train_is_divided(root: Path) -> None:
    lines = "\n".join(f"{number}.jpg {number % 3}" for number in range(12))
    splits = _read(root, lines, None)
    assert sorted(item.label for item in splits.val) == [0, 1, 2]
    assert len(splits.train) == 9
    assert not set(splits.train) & set(splits.val)
    assert splits.test == ()

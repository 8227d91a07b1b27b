from pathlib import Path
from typing import Any

import pytest

from pcvpt.data.readers.class_ids import ClassIds, checked_ids, listed_splits
from pcvpt.errors import UsageError

TRAIN, VAL, TEST = (Path(name) for name in ("train", "val", "test"))


def _ids(*ids: int) -> ClassIds:
    return {Path(f"{number}.jpg"): class_id for number, class_id in enumerate(ids)}


def test_one_map_from_train_serves_all_splits() -> None:
    files = {TRAIN: _ids(10, 2, 5), VAL: _ids(10), TEST: _ids(5, 10)}
    splits = listed_splits(files.__getitem__, TRAIN, VAL, TEST)
    assert splits.class_names == ("2", "5", "10")
    assert [item.label for item in splits.train] == [2, 0, 1]
    assert [item.label for item in splits.val or ()] == [2]
    assert [item.label for item in splits.test] == [1, 2]


def test_val_and_test_may_be_absent() -> None:
    splits = listed_splits({TRAIN: _ids(3, 4)}.__getitem__, TRAIN, None, None, lambda _: {4: "bee"})
    assert splits.val is None
    assert splits.test == ()
    assert splits.class_names == ("3", "bee")


def test_a_class_unknown_to_train_is_named() -> None:
    files = {TRAIN: _ids(0, 1), VAL: _ids(0, 3)}
    with pytest.raises(UsageError, match=r"val: class 3 of 1\.jpg"):
        listed_splits(files.__getitem__, TRAIN, VAL, None)


def _checked(*entries: tuple[str, Any], num_classes: int | None = None) -> ClassIds:
    placed = [(f"list:{n}", Path(name), value) for n, (name, value) in enumerate(entries, 1)]
    return checked_ids(Path("list"), placed, "an example", num_classes)


def test_ids_keep_their_order() -> None:
    assert _checked(("b", "7"), ("a", "+0")) == {Path("b"): 7, Path("a"): 0}


@pytest.mark.parametrize(
    "value", ["cat", "1.0", "1_0", "9" * 5000, "", 1, 1.0, True, None, float("nan"), [1], {"a": 1}]
)
def test_what_is_not_an_integer_is_named(value: Any) -> None:
    with pytest.raises(UsageError, match=r"list:2: label .* expected an example"):
        _checked(("other", "0"), ("image", value))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("a", "-1"), "list:2: label -1"),
        (("a", "4"), "list:2: label 4 .* from 0 to 3"),
        (("other", "0"), "list:2: other is listed twice, first in list:1"),
    ],
)
def test_a_bad_entry_is_named(entry: tuple[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _checked(("other", "3"), entry, num_classes=4)


def test_an_empty_file_is_named() -> None:
    with pytest.raises(UsageError, match="list: empty"):
        _checked()

from pathlib import Path

import pytest

from pcvpt.data.readers.listed_splits import ClassIds, listed_splits
from pcvpt.errors import UsageError

TRAIN, VAL, TEST = (Path(name) for name in ("train", "val", "test"))


def _ids(*ids: int) -> ClassIds:
    return {Path(f"{number}.jpg"): class_id for number, class_id in enumerate(ids)}


def test_one_map_from_train_serves_all_splits() -> None:
    files = {TRAIN: _ids(10, 2, 5), VAL: _ids(10), TEST: _ids(5, 10)}
    splits = listed_splits(lambda file, _: files[file], TRAIN, TRAIN, VAL, TEST)
    assert splits.class_names == ("2", "5", "10")
    parts = splits.train, splits.val or (), splits.test
    assert [[item.label for item in part] for part in parts] == [[2, 0, 1], [2], [1, 2]]


def test_val_and_test_may_be_absent() -> None:
    splits = listed_splits(lambda *_: _ids(3, 4), TRAIN, TRAIN, None, None)
    assert (splits.val, splits.test, splits.class_names) == (None, (), ("3", "4"))


def test_a_class_unknown_to_train_is_named() -> None:
    files = {TRAIN: _ids(0, 1), VAL: _ids(0, 3)}
    with pytest.raises(UsageError, match=r"val: class 3 of 1\.jpg"):
        listed_splits(lambda file, _: files[file], TRAIN, TRAIN, VAL, None)

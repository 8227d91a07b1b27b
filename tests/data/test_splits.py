from collections import Counter
from pathlib import Path

import pytest

from pcvpt.data.splits import Item, divide
from pcvpt.errors import UsageError

NAMES = ("ant", "bee", "cat")
ITEMS = [
    Item(Path(f"{label}/{number}.jpg"), label)
    for label, count in enumerate((30, 2, 11))
    for number in range(count)
]


def test_each_class_gives_its_share_and_keeps_some() -> None:
    train, val = divide(ITEMS, NAMES, 0.1, seed=0)
    assert Counter(item.label for item in val) == {0: 3, 1: 1, 2: 1}
    assert Counter(item.label for item in train) == {0: 27, 1: 1, 2: 10}
    assert sorted(train + val) == sorted(ITEMS)


def test_a_large_fraction_leaves_one_image_of_each_class_in_train() -> None:
    train, _ = divide(ITEMS, NAMES, 0.99, seed=0)
    assert Counter(item.label for item in train) == {0: 1, 1: 1, 2: 1}


def test_the_division_depends_on_its_seed_alone() -> None:
    assert divide(ITEMS, NAMES, 0.1, seed=3) == divide(ITEMS, NAMES, 0.1, seed=3)
    assert divide(ITEMS, NAMES, 0.1, seed=3) != divide(ITEMS, NAMES, 0.1, seed=4)


def test_a_class_is_divided_whatever_the_others_hold() -> None:
    fewer = [item for item in ITEMS if item.label == 2]
    assert divide(fewer, NAMES, 0.3, 0)[1] == tuple(
        item for item in divide(ITEMS, NAMES, 0.3, 0)[1] if item.label == 2
    )


def test_a_class_with_one_image_is_named() -> None:
    with pytest.raises(UsageError, match=r"class 'cat' has one training image.*only\.jpg"):
        divide([*ITEMS[:32], Item(Path("only.jpg"), 2)], NAMES, 0.1, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_that_leaves_a_split_empty_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="val_fraction"):
        divide(ITEMS, NAMES, fraction, seed=0)


def test_a_negative_split_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="split_seed"):
        divide(ITEMS, NAMES, 0.1, seed=-1)

from collections import Counter
from pathlib import Path

import pytest

from pcvpt.data.readers.listed_splits import read_list_splits
from pcvpt.data.splits import Item, TaskSplits, divide, take_fold, take_shots
from pcvpt.errors import UsageError

NAMES = ("ant", "bee", "cat")
ITEMS = tuple(
    Item(Path(f"{label}/{number}.jpg"), label)
    for label, count in enumerate((30, 2, 11))
    for number in range(count)
)


@pytest.mark.parametrize(
    ("fraction", "count"), [(0.1, {0: 27, 1: 1, 2: 10}), (0.99, {0: 1, 1: 1, 2: 1})]
)
def test_each_class_gives_its_share_and_keeps_some(fraction: float, count: dict[int, int]) -> None:
    train, val = divide(ITEMS, NAMES, fraction, seed=0)
    assert Counter(item.label for item in train) == count
    assert sorted(train + val) == sorted(ITEMS)


def test_the_division_is_that_of_earlier_versions() -> None:
    val = [str(item.source) for item in divide(ITEMS, NAMES, 0.1, seed=3)[1]]
    assert val == ["0/20.jpg", "0/23.jpg", "0/26.jpg", "1/0.jpg", "2/7.jpg"]


def test_a_class_is_divided_by_its_own_images_and_the_seed() -> None:
    cats = [item for item in ITEMS if item.label == 2]
    val = divide(ITEMS, NAMES, 0.3, seed=0)[1]
    assert divide(cats, NAMES, 0.3, seed=0)[1] == tuple(item for item in val if item.label == 2)
    assert divide(ITEMS, NAMES, 0.3, seed=1)[1] != val


def test_only_a_missing_val_is_divided_off() -> None:
    given = TaskSplits(ITEMS[2:], ITEMS[:1], ITEMS[1:2], NAMES).divided(0.1, 0)
    assert (given.train, given.val, given.test) == (ITEMS[2:], ITEMS[:1], ITEMS[1:2])
    divided = TaskSplits(ITEMS, None, (), NAMES).divided(0.1, 0)
    assert (divided.train, divided.val) == divide(ITEMS, NAMES, 0.1, 0)


def test_a_class_with_one_image_is_named() -> None:
    with pytest.raises(UsageError, match=r"'cat' .*only\.jpg"):
        divide([*ITEMS[:32], Item(Path("only.jpg"), 2)], NAMES, 0.1, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_or_seed_out_of_range_is_named(fraction: float) -> None:
    with pytest.raises(UsageError, match="val_fraction"):
        divide(ITEMS, NAMES, fraction, 0)
    with pytest.raises(UsageError, match="split_seed"):
        divide(ITEMS, NAMES, 0.1, -1)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_image_is_in_the_val_of_one_fold_and_classes_are_spread(count: int) -> None:
    folds = [take_fold(ITEMS, f"{number}/{count}", seed=1) for number in range(count)]
    assert sorted(item.source for _, val in folds for item in val) == sorted(
        item.source for item in ITEMS
    )
    for train, val in folds:
        assert sorted((*train, *val)) == sorted(ITEMS)
    for label in {item.label for item in ITEMS}:
        sizes = [sum(item.label == label for item in val) for _, val in folds]
        assert max(sizes) - min(sizes) <= 1
    assert take_fold(ITEMS, f"0/{count}", seed=2) != folds[0]


@pytest.mark.parametrize("fold", ["5/5", "-1/5", "0/1", "one", "1", "0/1000"])
def test_a_fold_that_does_not_exist_is_refused(fold: str) -> None:
    with pytest.raises(UsageError, match=f"fold is '?{fold}"):
        take_fold(ITEMS, fold, 0)


def test_shots_are_as_many_images_of_each_class() -> None:
    few = take_shots(ITEMS, NAMES, 2, seed=0)
    counts = Counter(item.label for item in few)
    assert set(counts) == {item.label for item in ITEMS}
    assert set(counts.values()) == {2}
    assert set(few) < set(ITEMS)
    assert few != take_shots(ITEMS, NAMES, 2, seed=1)
    for shots in (0, 10_000):
        with pytest.raises(UsageError, match=f"shots is {shots}, but class"):
            take_shots(ITEMS, NAMES, shots, 0)


def test_folds_take_val_too_and_shots_leave_it_alone() -> None:
    given = TaskSplits(tuple(ITEMS[:30]), tuple(ITEMS[30:]), (), NAMES)
    divided = given.divided(0.1, 0, fold="1/3", shots=1)
    assert divided.val == take_fold(ITEMS, "1/3", 0)[1]
    assert Counter(item.label for item in divided.train) == {0: 1, 1: 1, 2: 1}


def test_a_fold_keeps_groups_together_and_classes_even(tmp_path: Path) -> None:
    lines = []
    for group in range(12):  # half of them of each class
        for image in range(4):
            name = f"scan {group}-{image}.png"
            (tmp_path / name).touch()
            lines.append(f"{name}\t{group % 2}\tpatient {group}")
    (tmp_path / "train.txt").write_text("\n".join(lines))
    splits = read_list_splits(tmp_path, tmp_path / "train.txt", None, None)
    found = []
    for number in range(3):
        val = splits.divided(0.1, 0, fold=f"{number}/3").val
        found += [{splits.groups[item.source] for item in val}]
        assert Counter(item.label for item in val) == {0: 8, 1: 8}
    assert sum(map(len, found)) == 12
    assert set.union(*found) == {f"patient {group}" for group in range(12)}
    with pytest.raises(UsageError, match="there are 12 groups; give fewer folds"):
        splits.divided(0.1, 0, fold="0/13")


def test_an_image_without_a_group_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    (tmp_path / "train.txt").write_text("a.png\t0\tone\nb.png 1\n")
    splits = read_list_splits(tmp_path, tmp_path / "train.txt", None, None)
    with pytest.raises(UsageError, match=r"b\.png: no group"):
        splits.divided(0.1, 0, fold="0/2")

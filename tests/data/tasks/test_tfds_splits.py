import hashlib

import pytest

from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tasks.tfds_splits import Span, span, tfds_order

LENGTHS = {
    "cifar100": {"train": 50_000, "test": 10_000},
    "caltech101": {"train": 3_060, "test": 6_084},
    "pets": {"train": 3_680, "test": 3_669},
    "svhn": {"train": 73_257, "test": 26_032},
    "eurosat": {"train": 27_000},
    "resisc45": {"train": 31_500},
    "clevr_count": {"train": 70_000, "validation": 15_000},
    "kitti_dist": {"train": 6_347, "validation": 423, "test": 711},
    "dsprites_loc": {"train": 737_280},
    "smallnorb_azi": {"train": 24_300, "test": 24_300},
}


def test_examples_are_in_the_order_of_the_md5_of_split_and_key() -> None:
    keys = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    hashes = {key: int(hashlib.md5(f"train{key}".encode()).hexdigest(), 16) for key in keys}
    assert [keys[i] for i in tfds_order("train", keys)] == sorted(keys, key=hashes.__getitem__)


def test_the_order_depends_on_the_split_and_on_keys_as_text_with_slashes() -> None:
    assert tfds_order("test", list(range(50))) == tfds_order("test", [str(i) for i in range(50)])
    assert tfds_order("train", range(50)) != tfds_order("test", range(50))
    slashes, backslashes = ([f"a{sign}{number}" for number in range(20)] for sign in "/\\")
    assert tfds_order("train", slashes) == tfds_order("train", backslashes)


@pytest.mark.parametrize(
    ("rule", "length", "start", "stop"),
    [
        ("train[:800]", 50_000, 0, 800),
        ("train[:800]", 500, 0, 500),
        ("train[90%:]+200", 73_257, 65_931, 66_131),  # svhn: 65,931.3
        ("train[90%:]+2", 19, 17, 19),  # 17.1; closest and floor agree
        ("train[60%:]+200", 31_500, 18_900, 19_100),  # resisc45
        ("train[80%:]", 27_000, 21_600, 27_000),  # eurosat
        ("train[50%:]", 7, 3, 7),  # 3.5: TFDS by itself would start at 4
        ("train", 12, 0, 12),
        ("train+5", 12, 0, 5),
        ("train+50", 12, 0, 12),
    ],
)
def test_a_rule_is_a_span_of_the_split(rule: str, length: int, start: int, stop: int) -> None:
    assert span(rule, {"train": length}) == Span("train", start, stop)


@pytest.mark.parametrize("rule", ["", "train[", "train[:80%]+", "train[-5:]", "a b", "train[5:]"])
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="is not a sub-split"):
        span(rule, {"train": 9})


@pytest.mark.parametrize("name", LENGTHS)
def test_the_rules_give_the_published_sizes(name: str) -> None:
    task = TASKS[name]
    spans = [span(rule, LENGTHS[name]) for rule in task.rules]
    assert [each.stop - each.start for each in spans] == [task.train, task.val, task.test]


def test_no_training_image_is_in_val_or_test() -> None:
    # Small NORB's rule is VTAB's: val and test are both cut from test, and do not meet either.
    lengths = {"train": 50_000, "validation": 9_000, "test": 9_000}
    for task in TASKS.values():
        if task.suite == "fgvc":
            continue
        train, val, test = (span(rule, lengths) for rule in task.rules)
        for one, other in (train, val), (train, test), (val, test):
            apart = one.stop <= other.start or other.stop <= one.start
            assert one.split != other.split or apart, task.name

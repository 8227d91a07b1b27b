"""TFDS's order of a split's examples, and the sub-splits that VTAB-1k cuts from it.

TensorFlow Datasets writes the examples of a split in the order of md5(split name + key). The key
is the builder's: a file name, or a running number. So ``train[:800]`` depends on the keys alone,
and comes out the same from the files that TFDS reads.

VTAB: Zhai et al., 2019, https://arxiv.org/abs/1910.04867.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_RULE = re.compile(r"(\w+)(?:\[(?:([0-9]+)%)?:([0-9]+)?\])?(?:\+([0-9]+))?")


class Span(NamedTuple):
    """Examples ``start`` to ``stop``, the latter excluded, of the split called ``split``."""

    split: str
    start: int
    stop: int


def tfds_order(split: str, keys: Sequence[str | int]) -> list[int]:
    """Return the positions of a split's keys in the order in which TFDS stores the examples."""
    names = (split + str(key).replace("\\", "/") for key in keys)
    # Bytes sort as the 128-bit number that they stand for.
    digests = [hashlib.md5(name.encode(), usedforsecurity=False).digest() for name in names]
    return sorted(range(len(digests)), key=digests.__getitem__)


def split_of(rule: str) -> str:
    """Return the split that ``rule`` cuts from, such as ``train`` for ``train[:800]``."""
    return rule.partition("[")[0].partition("+")[0]


def span(rule: str, lengths: Mapping[str, int]) -> Span:
    """Return which examples ``rule`` means.

    Rules are ``test``, ``train[:800]``, ``train[80%:]``, and ``train[80%:]+200``, the first 200
    from 80 % on. As in VTAB's own code, n examples start at floor(80·n/100), where TFDS by itself
    rounds to the closest. ``lengths`` are the numbers of examples of the splits.

    Raises:
        ValueError: If ``rule`` is not a rule.
    """
    if not (match := _RULE.fullmatch(rule)):
        raise ValueError(f"{rule!r} is not a sub-split such as train[:800] or train[90%:]+200")
    split, percent, stop, count = match.groups()
    start = int(percent or 0) * lengths[split] // 100
    end = min(lengths[split], int(stop or lengths[split]))
    return Span(split, start, min(end, start + int(count or end)))

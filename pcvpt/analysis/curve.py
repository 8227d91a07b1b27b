"""Accuracy by number of prompts, over several runs.

The curve is a figure of Kim et al., arXiv 2305.17223: prompts that are masked only, fine-tuned
afterwards, or trained from scratch in the same number, and where more than 1 % is lost.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple, TypeVar

from pcvpt.errors import UsageError

Key = TypeVar("Key")
DROP = 1.0
"""Loss of accuracy that is accepted, in percentage points."""


class Point(NamedTuple):
    """Accuracy in percent of one run, with a fraction of all prompts and their number.

    A series is "fine-tuned", "masked only" or "from scratch", also with "random, " before it.
    """

    series: str
    run: str
    keep: float
    prompts: int
    accuracy: float


class Summary(NamedTuple):
    """Mean, sample deviation (NaN for a single value), and number of values."""

    mean: float
    deviation: float
    values: int


Line = Mapping[float, Summary]
"""Accuracy of one series over the runs of a group, by the fraction of all prompts, ascending."""


def summaries(values: Iterable[tuple[Key, float]]) -> dict[Key, Summary]:
    """Return mean and sample deviation of the values that have the same key."""
    groups: dict[Key, list[float]] = {}
    for key, value in values:
        groups.setdefault(key, []).append(value)
    return {
        key: Summary(fmean(several), stdev(several) if len(several) > 1 else math.nan, len(several))
        for key, several in groups.items()
    }


def lines_of(points: Iterable[Point]) -> dict[str, Line]:
    """Return the mean and deviation over runs of each series."""
    found = summaries(((point.series, point.keep), point.accuracy) for point in points)
    return {
        series: {keep: found[name, keep] for name, keep in sorted(found) if name == series}
        for series in dict.fromkeys(name for name, _ in found)
    }


def smallest_that_holds(line: Line, full: float) -> float | None:
    """Return the smallest fraction from which on accuracy is within 1 point of that of all prompts.

    It holds at this fraction and at every larger one that was measured, so one lucky point between
    two that lose more does not count. None if accuracy does not hold at the largest one.
    """
    holds = None
    for keep in sorted(line, reverse=True):
        if line[keep].mean < full - DROP - 1e-9:  # means are of decimals
            break
        holds = keep
    return holds


def whole_number(fraction: float, prompts: int) -> int | None:
    """Return how many of ``prompts`` a fraction is; None if that is no whole number from 1 up."""
    count = round(fraction * prompts)
    return count if count >= 1 and abs(fraction * prompts - count) < 1e-6 else None


def check_fractions(fractions: Sequence[float], name: str) -> list[float]:
    """Return ``fractions`` in ascending order, each once.

    Raises:
        UsageError: If one is not in (0, 1]; the message names the option ``name``.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UsageError(f"--{name} {fraction:g}; give fractions of the prompts, in (0, 1]")
    return sorted(set(fractions))

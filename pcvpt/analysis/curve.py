"""Accuracy by number of prompts, over several runs.

The curve is a figure of Kim et al., arXiv 2305.17223: prompts that are masked only, fine-tuned
afterwards, or trained from scratch in the same number, and where more than 1 % is lost.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pcvpt.errors import UsageError

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


def summary_of(values: Sequence[float]) -> Summary:
    """Return mean and sample deviation of ``values``, of which there is at least one."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Summary(statistics.fmean(values), deviation, len(values))


def lines_of(points: Iterable[Point]) -> dict[str, Line]:
    """Return the mean and deviation over runs of each series."""
    values: dict[str, dict[float, list[float]]] = {}
    for point in points:
        values.setdefault(point.series, {}).setdefault(point.keep, []).append(point.accuracy)
    return {
        series: {keep: summary_of(several) for keep, several in sorted(by_keep.items())}
        for series, by_keep in values.items()
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

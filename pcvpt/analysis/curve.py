"""Accuracy by number of prompts, over several runs.

The curve is a figure of Kim et al., arXiv 2305.17223: prompts that are masked only, fine-tuned
afterwards, or trained from scratch in the same number, and where more than 1 % is lost.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pcvpt.errors import UsageError

DROP = 1.0
"""Loss of accuracy that is accepted, in percentage points."""


class Point(NamedTuple):
    """Accuracy of one run with one number of prompts.

    Attributes:
        series: Name of the series, such as "fine-tuned".
        run: Name of the run.
        keep: Fraction of all prompts.
        prompts: Number of prompts of all layers.
        accuracy: Accuracy in percent.
    """

    series: str
    run: str
    keep: float
    prompts: int
    accuracy: float


class Band(NamedTuple):
    """Accuracy of the runs of a group with one number of prompts.

    Attributes:
        keep: Fraction of all prompts.
        mean: Mean accuracy in percent.
        deviation: Sample deviation over runs; NaN for one run.
        runs: Number of runs.
    """

    keep: float
    mean: float
    deviation: float
    runs: int


class Summary(NamedTuple):
    """Mean, sample deviation (NaN for a single value), and number of values."""

    mean: float
    deviation: float
    values: int


def summary_of(values: Sequence[float]) -> Summary:
    """Return mean and sample deviation of ``values``, of which there is at least one."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Summary(statistics.fmean(values), deviation, len(values))


def bands(points: Iterable[Point]) -> dict[str, list[Band]]:
    """Return the mean and deviation over runs of each series, by ascending fraction."""
    values: dict[str, dict[float, list[float]]] = {}
    for point in points:
        values.setdefault(point.series, {}).setdefault(point.keep, []).append(point.accuracy)
    return {
        series: [Band(keep, *summary_of(several)) for keep, several in sorted(by_keep.items())]
        for series, by_keep in values.items()
    }


def smallest_that_holds(line: Sequence[Band], full: float, drop: float = DROP) -> float | None:
    """Return the smallest fraction from which on accuracy is within ``drop`` points of ``full``.

    It holds at this fraction and at every larger one that was measured, so one lucky point between
    two that lose more does not count.

    Args:
        line: Accuracies of one series.
        full: Accuracy in percent with all prompts.
        drop: Loss that is accepted, in percentage points, at least 0. Default: 1.

    Returns:
        The fraction; None if accuracy does not hold at the largest one.
    """
    holds = None
    for band in sorted(line, reverse=True):
        if band.mean < full - drop - 1e-9:  # means are of decimals
            break
        holds = band.keep
    return holds


def prompts_from_scratch(
    fractions: Sequence[float], prompts: int
) -> tuple[dict[float, int], list[float]]:
    """Return the prompts per layer of each fraction, and the fractions that are no whole number.

    Args:
        fractions: Fractions of the prompts, in (0, 1].
        prompts: Number of all prompts of each layer.
    """
    whole: dict[float, int] = {}
    refused = []
    for fraction in fractions:
        exact = fraction * prompts
        if round(exact) >= 1 and abs(exact - round(exact)) < 1e-6:
            whole[fraction] = round(exact)
        else:
            refused.append(fraction)
    return whole, refused


def check_fractions(fractions: Sequence[float], name: str) -> list[float]:
    """Return ``fractions`` in ascending order, each once.

    Raises:
        UsageError: If one is not in (0, 1]; the message names the option ``name``.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UsageError(f"--{name} {fraction:g}; give fractions of the prompts, in (0, 1]")
    return sorted(set(fractions))

"""Accuracy against the number of prompts: points of single runs, put together.

The figure is one of Kim et al., arXiv 2305.17223: prompts that are masked only, that are
fine-tuned afterwards, and as many trained from scratch, with the point where more than 1 % is lost.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pcvpt.errors import UsageError

DROP = 1.0
"""Percentage points that may be lost."""


class Point(NamedTuple):
    """What one run has with one number of prompts.

    Attributes:
        series: such as "fine-tuned".
        run: whose it is.
        keep: fraction of all prompts.
        prompts: of all layers.
        accuracy: in percent.
    """

    series: str
    run: str
    keep: float
    prompts: int
    accuracy: float


class Band(NamedTuple):
    """What the runs of a group have with one number of prompts.

    Attributes:
        keep: fraction of all prompts.
        mean: accuracy in percent.
        deviation: sample deviation over runs; NaN for a single one.
        runs: how many.
    """

    keep: float
    mean: float
    deviation: float
    runs: int


def bands(points: Iterable[Point]) -> dict[str, list[Band]]:
    """Return the mean and deviation over runs of each series, by growing fraction."""
    values: dict[str, dict[float, list[float]]] = {}
    for point in points:
        values.setdefault(point.series, {}).setdefault(point.keep, []).append(point.accuracy)
    return {
        series: [
            Band(
                keep,
                statistics.fmean(several),
                statistics.stdev(several) if len(several) > 1 else math.nan,
                len(several),
            )
            for keep, several in sorted(by_keep.items())
        ]
        for series, by_keep in values.items()
    }


def smallest_that_holds(line: Sequence[Band], full: float, drop: float = DROP) -> float | None:
    """Return the smallest fraction from which on accuracy is within ``drop`` points of ``full``.

    It holds at this fraction and at every larger one that was measured: one lucky point between two
    that lose more does not count.

    Args:
        line: of one series.
        full: accuracy in percent with all prompts.
        drop: in percentage points, at least 0.

    Returns:
        None when not even the largest fraction holds.
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
    """Return the prompts per layer of each of ``fractions``, and those that are no whole number.

    Args:
        fractions: of the prompts, in (0, 1].
        prompts: per layer, all of them.
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
    """Return ``fractions`` in order, each once.

    Raises:
        UsageError: naming the option ``name``, for one that is not in (0, 1].
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UsageError(f"--{name} {fraction:g}; give fractions of the prompts, in (0, 1]")
    return sorted(set(fractions))

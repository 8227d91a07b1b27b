import math

import pytest

from pcvpt.analysis.curve import (
    Point,
    Summary,
    check_fractions,
    lines_of,
    smallest_that_holds,
    whole_number,
)
from pcvpt.errors import UsageError


def test_lines_are_mean_and_sample_deviation_over_runs_by_growing_fraction() -> None:
    points = [
        Point("fine-tuned", "a", 0.5, 60, 80.0),
        Point("fine-tuned", "a", 0.1, 12, 70.0),
        Point("fine-tuned", "b", 0.1, 12, 74.0),
        Point("fine-tuned", "c", 0.1, 12, 78.0),
        Point("masked only", "a", 0.1, 12, 50.0),
    ]
    found = lines_of(points)
    assert list(found) == ["fine-tuned", "masked only"]
    assert list(found["fine-tuned"]) == [0.1, 0.5]
    assert found["fine-tuned"][0.1] == Summary(74.0, 4.0, 3)
    mean, deviation, runs = found["fine-tuned"][0.5]
    assert (mean, runs) == (80.0, 1)
    assert math.isnan(deviation)


@pytest.mark.parametrize(
    ("means", "smallest"),
    [
        ((70, 79, 79.5, 80), 0.3),  # exactly one point is not too much
        ((70, 78.9, 79.5, 80), 0.5),
        ((79.2, 78, 79.5, 80), 0.5),  # a lucky point below one that loses more
        ((79.2, 79.3, 79.5, 80), 0.1),
        ((70, 70, 70, 79), 1.0),
        ((80, 80, 80, 70), None),
        ((80.1 - 1, 80, 80, 80.1), 0.1),  # round-off
    ],
)
def test_the_smallest_fraction_that_holds(means: tuple[float, ...], smallest: float | None) -> None:
    line = {
        keep: Summary(mean, math.nan, 1)
        for keep, mean in zip((0.1, 0.3, 0.5, 1.0), means, strict=True)
    }
    assert smallest_that_holds(line, full=max(80.0, means[-1])) == smallest


def test_only_whole_numbers_of_prompts_are_trained_from_scratch() -> None:
    found = [whole_number(fraction, 20) for fraction in (0.05, 0.1, 0.3, 0.33, 1.0)]
    assert found == [1, 2, 6, None, 20]
    assert whole_number(0.05, 10) is None


def test_fractions_are_put_in_order_or_refused() -> None:
    assert check_fractions([0.5, 0.1, 0.5, 1], "keep") == [0.1, 0.5, 1]
    for wrong in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(UsageError, match=r"--scratch .*in \(0, 1\]"):
            check_fractions([0.1, wrong], "scratch")

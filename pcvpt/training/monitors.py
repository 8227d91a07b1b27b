"""Which metrics may choose a checkpoint, or the end of training: not those of the test split."""

import re
from collections.abc import Iterable
from typing import Any

from pcvpt.errors import UsageError

_OF_TEST = re.compile(r"test(?![a-z])", re.IGNORECASE)


def check_monitor(metric: str, option: str) -> None:
    """Refuse a ``metric`` that must not choose, or of which lower is better.

    Args:
        metric: as it is logged, such as "val/accuracy".
        option: that names it, for the message.

    Raises:
        UsageError: for a metric of the test split, or a loss.
    """
    refuse_test_metric(metric, option)
    if "loss" in metric.lower():
        raise UsageError(
            f"{option}={metric!r}: the highest value would be taken for the best, and of a loss it "
            "is the worst; take an accuracy, such as val/accuracy"
        )


def refuse_test_metric(metric: str, option: str) -> None:
    """Raise a UsageError if ``metric`` is one of the test split."""
    if _OF_TEST.match(metric):
        raise UsageError(
            f"{option}={metric!r}: the test split must not choose anything, or its accuracy would "
            "say too much; take a metric of the validation split, such as val/accuracy"
        )


def refuse_test_monitors(callbacks: Iterable[Any]) -> None:
    """Raise a UsageError if one of ``callbacks``, of whatever kind, monitors the test split."""
    for callback in callbacks:
        metric = getattr(callback, "monitor", None)
        if isinstance(metric, str):
            refuse_test_metric(metric, f"{type(callback).__name__}.monitor")

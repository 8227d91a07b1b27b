"""What a run measures of itself, as it is kept in checkpoints and written to loggers."""

import time
from typing import Any

import lightning.pytorch as pl


class Report:
    """Figures of a run, and of each of its budgets.

    Attributes:
        figures: by name; accuracies in percent, times in seconds. With several budgets,
            ``figures["budgets"]`` has an entry for each, which says its fraction as ``keep``.
    """

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.start_clock()

    def entry(self, budget: str) -> dict[str, Any]:
        """Return the figures of ``budget``, see :func:`entry_of`."""
        return entry_of(self.figures, budget)

    def start_clock(self) -> None:
        """Let the time until now count for nothing."""
        self._since = time.monotonic()

    def clock(self, name: str, budget: str = "") -> None:
        """Add the time since the last call to ``name``, over all starts of the run."""
        now, entry = time.monotonic(), self.entry(budget)
        entry[name] = entry.get(name, 0.0) + now - self._since
        self._since = now

    def log(self, trainer: pl.Trainer) -> None:
        """Write the run's own accuracies and times to its loggers."""
        numbers = {f"condense/{k}": v for k, v in self.figures.items() if isinstance(v, float)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)

    def log_point(self, trainer: pl.Trainer, name: str, budget: str) -> None:
        """Write one of several budgets' points of the curve of ``name`` over kept prompts."""
        entry = self.entry(budget)
        for logger in trainer.loggers if budget else ():
            curve = f"condense/{name}_by_prompts"
            logger.log_metrics({curve: entry[name]}, step=sum(entry["kept"]))


def entry_of(figures: dict[str, Any], budget: str) -> dict[str, Any]:
    """Return those of ``figures`` that are of ``budget``: all of them for the only one, "".

    Args:
        figures: as :class:`Report` has them.
        budget: its name.
    """
    entries = figures.get("budgets", [])
    return next((entry for entry in entries if str(float(entry["keep"])) == budget), figures)


def report_of(trainer: pl.Trainer) -> dict[str, Any]:
    """Return what a callback with an attribute ``report`` has measured; nothing without one."""
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    reports = (getattr(callback, "report", None) for callback in callbacks)
    found: dict[str, Any] = next(filter(None, reports), {})
    return found

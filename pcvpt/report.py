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
        """Return the figures of ``budget``, by its name: all of them for the only one, ""."""
        entries = self.figures.get("budgets", [])
        return next((e for e in entries if str(e["keep"]) == budget), self.figures)

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

"""What a run measures of itself, as checkpoints keep it and loggers write it."""

import time
from typing import Any

import lightning.pytorch as pl

from pcvpt.runs.folder import entry_of


class Report:
    """Figures of a run, and of each of its budgets.

    Attributes:
        figures: Figures by name. Accuracies are in percent, times in seconds; ``kept`` is the
            number of prompts per layer, ``score_agreement`` the rank correlation of the scores by
            two halves of the data. With several budgets, ``figures["budgets"]`` has an entry for
            each, with its fraction as ``keep``.
    """

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.start_clock()

    def entry(self, budget: str) -> dict[str, Any]:
        """Return the figures of ``budget``; those of the run for the only budget, ""."""
        return entry_of(self.figures, budget)

    def start_clock(self) -> None:
        """Leave the time until now out of every figure."""
        self._since = time.monotonic()

    def clock(self, name: str, budget: str = "") -> None:
        """Add the time since the last call to figure ``name``, which sums over all starts."""
        now, entry = time.monotonic(), self.entry(budget)
        entry[name] = entry.get(name, 0.0) + now - self._since
        self._since = now

    def log(self, trainer: pl.Trainer) -> None:
        """Write the accuracies and times of the run to its loggers."""
        numbers = {f"condense/{k}": v for k, v in self.figures.items() if isinstance(v, float)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)

    def log_point(self, trainer: pl.Trainer, name: str, budget: str) -> None:
        """Write the point of ``budget``, if there are several, on the curve over kept prompts."""
        entry = self.entry(budget)
        for logger in trainer.loggers if budget else ():
            curve = f"condense/{name}_by_prompts"
            logger.log_metrics({curve: entry[name]}, step=sum(entry["kept"]))

"""Early end of prompt training, once a validation metric stops improving."""

from typing import Any

import lightning.pytorch as pl

from pcvpt.errors import UsageError
from pcvpt.training.preflight import check_monitor


class Patience:
    """Count of the epochs without a better metric, of which the highest value is the best.

    With ``epochs=None`` it waits for ever. A UsageError is raised for fewer than one epoch, and for
    a metric of the test split, or a loss.
    """

    def __init__(self, epochs: int | None, monitor: str) -> None:
        if epochs is not None and epochs < 1:
            raise UsageError(f"condense.patience={epochs}; give at least 1 epoch, or null")
        check_monitor(monitor, "condense.monitor")
        self.epochs, self.monitor = epochs, monitor
        self._best = float("-inf")
        self._waited = 0
        self._value: float | None = None  # of the metric, if this epoch has measured it

    @property
    def is_over(self) -> bool:
        """Whether the number of epochs has passed."""
        return self.epochs is not None and self._waited >= self.epochs

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"best": self._best, "waited": self._waited, "value": self._value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what a checkpoint holds; older ones have no value."""
        self._best, self._waited = state["best"], state["waited"]
        self._value = state.get("value")

    def note_validation(self, trainer: pl.Trainer) -> None:
        """Remember the value of a validation; the run may be resumed before its epoch ends."""
        value = trainer.callback_metrics.get(self.monitor)
        self._value = None if trainer.sanity_checking or value is None else float(value)

    def note_epoch(self, trainer: pl.Trainer) -> bool:
        """Count an epoch of prompt training that has ended; return whether to wait no more."""
        if self.epochs is None:
            return False
        found = trainer.callback_metrics.get(self.monitor, self._value)
        if found is None:
            raise UsageError(f"condense.monitor={self.monitor!r} is not logged")
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1):
            return False  # no new value
        value = float(found)
        self._waited = 0 if value > self._best else self._waited + 1
        self._best = max(self._best, value)
        return self.is_over

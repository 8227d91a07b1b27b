"""Early end of prompt training, once a metric stops improving from validation to validation."""

from typing import Any

import lightning.pytorch as pl

from pcvpt.errors import UsageError
from pcvpt.training.preflight import check_monitor


class Patience:
    """Count of the validations without a better metric, of which the highest value is the best.

    With ``limit=None`` it waits for ever. A UsageError is raised for fewer than one validation, and
    for a metric of the test split, or a loss.
    """

    def __init__(self, limit: int | None, monitor: str) -> None:
        if limit is not None and limit < 1:
            raise UsageError(f"condense.patience={limit}; give at least 1 validation, or null")
        check_monitor(monitor, "condense.monitor")
        self.limit, self.monitor = limit, monitor
        self._best = float("-inf")
        self._waited = 0

    @property
    def is_over(self) -> bool:
        """Whether the number of validations has passed."""
        return self.limit is not None and self._waited >= self.limit

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what a checkpoint holds."""
        self._best, self._waited = state["best"], state["waited"]

    def note_validation(self, trainer: pl.Trainer) -> None:
        """Count a validation of prompt training."""
        if self.limit is None:
            return
        found = trainer.callback_metrics.get(self.monitor)
        if found is None:
            raise UsageError(f"condense.monitor={self.monitor!r} is not logged in validation")
        if not trainer.sanity_checking:
            self._waited = 0 if float(found) > self._best else self._waited + 1
            self._best = max(self._best, float(found))

    def note_epoch(self, trainer: pl.Trainer) -> bool:
        """Return whether to wait no more after an epoch of prompt training."""
        every, none = trainer.check_val_every_n_epoch, self._best == float("-inf")
        due = every is not None and (trainer.current_epoch + 1) % every == 0
        if self.limit is not None and due and none and not self._waited:
            raise UsageError(
                f"condense.patience={self.limit} counts validations, and there is none; set it to "
                "null, or give data with val"
            )
        return self.is_over

"""A progress bar that names the phase."""

import time

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override

from pcvpt.training.module import require_tuner

_SECONDS = 0.1  # at least, between two drawings


class PhaseProgressBar(TQDMProgressBar):
    """Progress bar of Lightning that names the phase, such as "prompt 3/20" or "finetune 1/5".

    With several budgets it names the budget too, such as "finetune 0.3 1/5". It is drawn at most
    ten times a second, and after the last batch.
    """

    _drawn = 0.0

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, *args: object) -> None:
        super().on_train_epoch_start(trainer, *args)
        schedule, number = require_tuner(trainer.lightning_module).schedule, trainer.current_epoch
        epoch, budget = schedule.single_budget_epoch(number), schedule.budget(number)
        if epoch < schedule.prompt_epochs:
            text = f"prompt {epoch + 1}/{schedule.prompt_epochs}"
        else:
            phase = f"finetune {budget}".rstrip()
            text = f"{phase} {epoch + 1 - schedule.prompt_epochs}/{schedule.finetune_epochs}"
        self.train_progress_bar.set_description(text)

    @override
    def _should_update(self, current: int, total: int) -> bool:
        now = time.monotonic()
        if not super()._should_update(current, total) or (
            current != total and now - self._drawn < _SECONDS
        ):
            return False
        self._drawn = now
        return True

    @override
    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

"""A progress bar that names the phase."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override

from pcvpt.module import require_tuner


class PhaseProgressBar(TQDMProgressBar):
    """Lightning's bar, saying "prompt 3/20" or "finetune 1/5" instead of the epoch alone."""

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, *args: object) -> None:
        super().on_train_epoch_start(trainer, *args)
        module = require_tuner(trainer.lightning_module)
        prompt_epochs, finetune_epochs = module.phase_epochs or (trainer.max_epochs or 0, 0)
        epoch = trainer.current_epoch
        if epoch < prompt_epochs:
            text = f"prompt {epoch + 1}/{prompt_epochs}"
        else:
            text = f"finetune {epoch + 1 - prompt_epochs}/{finetune_epochs}"
        self.train_progress_bar.set_description(text)

    @override
    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

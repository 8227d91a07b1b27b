"""A progress bar that names the phase."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override

from pcvpt.training.module import require_tuner
from pcvpt.training.phases import Plan


class PhaseProgressBar(TQDMProgressBar):
    """Lightning's bar, saying "prompt 3/20" or "finetune 1/5" instead of the epoch alone.

    Among several budgets it is "finetune 0.3 1/5".
    """

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, *args: object) -> None:
        super().on_train_epoch_start(trainer, *args)
        module = require_tuner(trainer.lightning_module)
        plan = module.plan or Plan(trainer.max_epochs or 0)
        epoch, budget = plan.alone(trainer.current_epoch), plan.budget(trainer.current_epoch)
        if epoch < plan.prompt_epochs:
            text = f"prompt {epoch + 1}/{plan.prompt_epochs}"
        else:
            phase = f"finetune {budget}".rstrip()
            text = f"{phase} {epoch + 1 - plan.prompt_epochs}/{plan.finetune_epochs}"
        self.train_progress_bar.set_description(text)

    @override
    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

"""What TensorBoard shows of the prompts."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

from pcvpt.analysis.maps import kept_figure, score_figure
from pcvpt.module import require_tuner
from pcvpt.plan import named


class PromptInspector(Callback):
    """Writes the scores (histogram and map) and the kept map once the prompts are condensed.

    A run that is resumed in fine-tuning writes them too, as it has a folder of its own.
    """

    def __init__(self) -> None:
        self._scores_shown = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        if module.phase_name == "finetune":  # resumed
            budget = module.plan.budget(trainer.current_epoch - 1) if module.plan else ""
            self.on_prompts_masked(trainer, module, budget)

    def on_prompts_masked(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, budget: str
    ) -> None:
        """Show the mask of ``budget``, and the scores when it is the first."""
        bank = require_tuner(pl_module).model.prompts
        scores, keep = bank.scores.detach().cpu(), bank.keep.cpu()
        scores_shown, self._scores_shown = self._scores_shown, True
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger) or trainer.global_rank != 0:
                continue
            board, step = logger.experiment, trainer.global_step
            board.add_figure(named("prompts/kept", budget), kept_figure(keep), step)
            if scores_shown:
                continue
            for layer, values in enumerate(scores):
                board.add_histogram(f"scores/block_{layer:02d}", values, step)
            board.add_figure("prompts/scores", score_figure(scores), step)

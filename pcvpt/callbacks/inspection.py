"""What TensorBoard shows of the prompts."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

from pcvpt.analysis.maps import kept_figure, score_figure
from pcvpt.module import require_tuner


class PromptInspector(Callback):
    """Writes the scores (histogram and map) and the kept map once the prompts are condensed."""

    def __init__(self) -> None:
        self._shown = False

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        if self._shown or module.phase_name != "finetune":
            return
        self._shown = True
        bank = module.model.prompts
        scores, keep = bank.scores.detach().cpu(), bank.keep.cpu()
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger) or trainer.global_rank != 0:
                continue
            board, step = logger.experiment, trainer.global_step
            for layer, values in enumerate(scores):
                board.add_histogram(f"scores/block_{layer:02d}", values, step)
            board.add_figure("prompts/scores", score_figure(scores), step)
            board.add_figure("prompts/kept", kept_figure(keep), step)

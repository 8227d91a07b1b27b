"""Predictions as a table."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from torch import Tensor
from typing_extensions import override

from pcvpt.runs.atomic import check_writable, write_text
from pcvpt.training.callback_protocols import RunWriter
from pcvpt.training.evaluation import part_of
from pcvpt.training.module import require_tuner


class PromptFreezer(Callback):
    """Freezes the prompts of the model before it predicts; it can't be trained afterwards."""

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        require_tuner(pl_module).model.freeze_prompts()


class PredictionWriter(RunWriter, BasePredictionWriter):
    """Writes a CSV of image, class and probability, with one row per image in the order given.

    The file is written, by an atomic write, once all images are predicted. If a limit of the
    Trainer leaves out some of them, ``_partial`` is added to its name.

    Args:
        path: Path of the file. Each further process writes one more.
    """

    def __init__(self, path: str = "predictions.csv") -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path).expanduser()

    def check_run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise a UsageError if the file can't be written."""
        if trainer.state.fn == "predict":
            check_writable(self.path)

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._part = part_of(trainer.num_predict_batches, trainer.predict_dataloaders)
        rank = f"_{trainer.global_rank}" if trainer.global_rank else ""
        ending = f"{rank}_partial" if self._part else rank
        self._file = self.path.with_stem(self.path.stem + ending)
        self._table = io.StringIO(newline="")
        csv.writer(self._table).writerow(["image", "class", "probability"])

    @override
    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        names = require_tuner(pl_module).class_names
        found = zip(batch[1], *(part.tolist() for part in prediction.max(dim=1)), strict=True)
        rows = ([image, names[guess], f"{share:.6f}"] for image, share, guess in found)
        csv.writer(self._table).writerows(rows)

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        write_text(self._file, self._table.getvalue())
        print(f"Predictions: {self._file}" + (f", only {self._part}" if self._part else ""))

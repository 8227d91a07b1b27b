"""Predictions as a table."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from torch import Tensor
from typing_extensions import override

from pcvpt.training.hooks import class_names
from pcvpt.training.module import require_tuner


class PromptFreezer(Callback):
    """Freezes the prompts of the model before it predicts; it can't be trained afterwards."""

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        require_tuner(pl_module).model.freeze_prompts()


class PredictionWriter(BasePredictionWriter):
    """Writes a CSV of image, class and probability, with one row per image in the order given.

    Until all images are predicted, the file is a hidden ``.NAME.part``.

    Args:
        path: Path of the file. Each further process writes one more.
    """

    def __init__(self, path: str = "predictions.csv") -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_rank:
            self.path = self.path.with_stem(f"{self.path.stem}_{trainer.global_rank}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._partial.open("w", newline="") as file:
            csv.writer(file).writerow(["image", "class", "probability"])

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
        names = class_names(trainer, prediction.shape[1])
        probabilities, classes = prediction.max(dim=1)
        with self._partial.open("a", newline="") as file:
            rows = csv.writer(file)
            for image, label, probability in zip(
                batch[1], classes.tolist(), probabilities.tolist(), strict=True
            ):
                rows.writerow([image, names[label], f"{probability:.6f}"])

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        os.replace(self._partial, self.path)

    @property
    def _partial(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")

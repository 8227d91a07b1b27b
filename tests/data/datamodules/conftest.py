"""A module that remembers its batches, and a trainer for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from pcvpt.data import InputSpec


class Recorder(lightning.LightningModule):
    """Learns nothing and remembers the training batches with their epoch."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.input_spec = spec
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[tuple[int, Tensor, Tensor]] = []

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        self.batches.append((self.current_epoch, images, labels))
        return self.weight * 0.0

    def predict_step(self, batch: tuple[Tensor, list[str]]) -> list[str]:
        return list(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def recorder(spec: InputSpec) -> Callable[[], Recorder]:
    return lambda: Recorder(spec)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., lightning.Trainer]:
    def trainer(**options: Any) -> lightning.Trainer:
        return lightning.Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            **options,
        )

    return trainer

"""Best and last checkpoint of each phase."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from pcvpt.errors import UsageError
from pcvpt.module import require_tuner
from pcvpt.plan import named


def check_checkpoint(path: Path) -> None:
    """Raise a UsageError naming ``path`` unless it is a readable checkpoint of pcvpt."""
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        known = "pcvpt" in checkpoint
    except Exception as error:  # damaged and foreign files raise nearly anything
        raise UsageError(f"{path}: not a readable checkpoint") from error
    if not known:
        raise UsageError(f"{path}: not a checkpoint of pcvpt")


class PhaseCheckpoint(Checkpoint):
    """Keeps ``<phase>-best.ckpt`` and ``<phase>-last.ckpt`` of both phases in ``checkpoints/``.

    Best is counted within a phase, so that the best of prompt training does not shadow the
    condensed best. ``masked.ckpt`` is the model right after masking, before fine-tuning
    (weights only). Where val is part of what is trained on, no best is kept: the last counts.
    Several budgets have files of their own each, such as ``masked_0.3.ckpt`` and
    ``finetune_0.3-best.ckpt``.

    Args:
        monitor: metric by which the best is chosen, higher is better.
    """

    def __init__(self, monitor: str = "val/accuracy") -> None:
        self.monitor = monitor
        self._best: dict[str, float] = {}
        self._fresh: float | None = None  # the metric, if this epoch has measured it

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = state_dict["best"]

    def on_prompts_masked(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, budget: str
    ) -> None:
        """Save the model with the mask of ``budget``."""
        self._save(trainer, named("masked", budget), weights_only=True)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        self._fresh = None if trainer.sanity_checking or value is None else float(value)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Reducing the epoch's metrics is collective, and a progress bar, which only the first
        # process has, may have begun it: all must come here before they save.
        _ = trainer.callback_metrics
        module = require_tuner(pl_module)
        budget = module.plan.budget(trainer.current_epoch) if module.plan else ""
        phase = named(module.phase_name, budget)
        value, self._fresh = self._fresh, None
        if not getattr(getattr(trainer, "datamodule", None), "held_out", True):
            value = None  # accuracy on images trained on chooses nothing
        if value is not None and value > self._best.get(phase, float("-inf")):
            self._best[phase] = value
            self._save(trainer, f"{phase}-best")
        self._save(trainer, f"{phase}-last")

    @staticmethod
    def _save(trainer: pl.Trainer, name: str, weights_only: bool = False) -> None:
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
        trainer.save_checkpoint(folder / f"{name}.ckpt", weights_only=weights_only)

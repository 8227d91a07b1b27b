"""A loss that is no number, noticed without waiting for the device in each step."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from pcvpt.errors import UsageError
from pcvpt.runs import CHECKPOINTS

_EPOCH = 10**9  # more batches than an epoch has


class FiniteLoss:
    """Remembers, on the device, the first batch whose loss was not finite."""

    def __init__(self) -> None:
        self._first: Tensor | None = None  # epoch and batch in one number; -1 while all is well

    def note(self, loss: Tensor, epoch: int, batch: int) -> None:
        """Look at the ``loss`` of a batch, counted from 0 in its epoch; nothing is read here."""
        if self._first is None:
            self._first = torch.full((), -1, device=loss.device)
        bad = ~loss.detach().isfinite() & (self._first < 0)
        self._first = torch.where(bad, epoch * _EPOCH + batch, self._first)

    def require(self, trainer: pl.Trainer, rates: list[float]) -> None:
        """Raise a UsageError if a loss of this process, or of another, was not finite.

        All processes must call this together. ``rates`` are the learning rates, for the message.
        """
        if self._first is None:
            return
        first = int(trainer.strategy.reduce(self._first, reduce_op="max"))
        if first < 0:
            return
        epoch, batch = divmod(first, _EPOCH)
        folder = Path(trainer.log_dir or trainer.default_root_dir) / CHECKPOINTS
        good = sorted(folder.glob("*-last.ckpt"), key=lambda path: path.stat().st_mtime)
        kept = (
            f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written yet"
        )
        rate = ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates))
        raise UsageError(
            f"the loss is not a finite number since batch {batch + 1} of epoch "
            f"{epoch + 1} (learning rate {rate}); lower base_lr of the phase or lengthen its "
            f"warmup_epochs, and in half precision try --trainer.precision 32-true; {kept}"
        )

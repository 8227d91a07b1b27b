"""Losses and weights that are wrong, found without waiting for the device in each step."""

import math
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from pcvpt.errors import UsageError
from pcvpt.runs.folder import CHECKPOINTS, folder_of

_EPOCH = 10**9  # more batches than an epoch has
_REMEDY = (
    "lower base_lr of the phase or lengthen its warmup_epochs, and in half precision try "
    "--trainer.precision 32-true"
)


def is_read(trainer: pl.Trainer, batch: int) -> bool:
    """Return whether numbers may be read from the device after ``batch``.

    That is so after one of every ``log_every_n_steps``, and on a single CPU after each: elsewhere
    that would wait for the device, or for others.
    """
    alone = trainer.world_size == 1 and trainer.strategy.root_device.type == "cpu"
    return alone or (batch + 1) % (cast(Any, trainer).log_every_n_steps or 50) == 0


class LossGuard:
    """Remembers, on the device, the loss of the first batch, and the first that was not finite."""

    def __init__(self) -> None:
        self._start: Tensor | None = None  # until it is read
        self._first: Tensor | None = None  # epoch and batch in one number; -1 while all is well

    def note(self, loss: Tensor, epoch: int, batch: int) -> None:
        """Note the ``loss`` of a batch; no value is read from the device."""
        if epoch == batch == 0:
            self._start = loss.detach()
        if self._first is None:
            self._first = torch.full((), -1, device=loss.device)
        bad = ~loss.detach().isfinite() & (self._first < 0)
        self._first = torch.where(bad, epoch * _EPOCH + batch, self._first)

    def require(self, trainer: pl.Trainer) -> None:
        """Raise a UsageError if a loss of any process was not finite; all must call together."""
        if self._first is None:
            return
        epoch, batch = divmod(int(trainer.strategy.reduce(self._first, reduce_op="max")), _EPOCH)
        if epoch >= 0:
            rates = dict.fromkeys(f"{g['lr']:g}" for g in trainer.optimizers[0].param_groups)
            raise UsageError(
                f"the loss is not a finite number since batch {batch + 1} of epoch {epoch + 1} "
                f"(learning rate {', '.join(rates)}); {_REMEDY}; {_last_good(trainer)}"
            )

    def warn(self, classes: int) -> None:
        """Warn, once, if the first loss was far above that of a uniform guess."""
        loss, uniform = float(0 if self._start is None else self._start), math.log(classes)
        self._start = None
        if loss > 2 * uniform + 1:
            rank_zero_warn(
                f"the loss of the first batch is {loss:.1f}, far above log({classes}) = "
                f"{uniform:.1f}, that of a uniform guess; a short training may not undo this: set "
                "model.head_init=zero, and check that images are normalised as the backbone expects"
            )


def require_finite_weights(module: nn.Module, trainer: pl.Trainer) -> None:
    """Raise a UsageError unless all trained parameters of ``module`` are finite.

    A finite loss is not enough before a checkpoint: it was computed before the last step.
    """
    trained = [p.detach() for p in module.parameters() if p.requires_grad]
    if trained and not bool(torch.stack([p.isfinite().all() for p in trained]).all()):
        epoch = trainer.current_epoch + 1
        raise UsageError(
            f"weights are not finite numbers after step {trainer.global_step}, in epoch {epoch}; "
            f"{_REMEDY}; {_last_good(trainer)}"
        )


def _last_good(trainer: pl.Trainer) -> str:
    """Return, for a message, the last checkpoint and the best, which may be the sounder one."""
    files = (folder_of(trainer) / CHECKPOINTS).glob("*.ckpt")
    found = sorted(files, key=lambda path: path.stat().st_mtime)
    last, best = ([f for f in found if f.stem.endswith(kind)][-1:] for kind in ("-last", "-best"))
    if not last:
        return "no checkpoint was written yet"
    earlier = "".join(f", of an earlier or the same epoch {path}" for path in best)
    return f"the last good checkpoint is {last[0]}{earlier}"

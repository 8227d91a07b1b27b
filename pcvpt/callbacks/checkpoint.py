"""Best and last checkpoint of each phase, and a last one when a signal ends the run."""

import time
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from typing_extensions import override

from pcvpt.errors import UsageError
from pcvpt.runs import signals
from pcvpt.runs.atomic import atomic_file, link_file
from pcvpt.runs.folder import CHECKPOINTS, folder_of, last_checkpoint
from pcvpt.training.callback_protocols import RunWriter, image_data
from pcvpt.training.module import require_tuner
from pcvpt.training.phases import named
from pcvpt.training.preflight import check_monitor
from pcvpt.training.process_group import leave_group_at_exit


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints by :func:`~pcvpt.runs.atomic.atomic_file`.

    Lightning moves them from a temporary folder: to another file system that is a copy.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        if "://" in str(path):  # not on this machine
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_file(Path(path)) as file:
            torch.save(checkpoint, file)


class PhaseCheckpoint(RunWriter, ModelCheckpoint):
    """Keeps ``<phase>-best.ckpt`` and ``<phase>-last.ckpt`` of both phases in ``checkpoints/``.

    Each phase has its own best. ``masked.ckpt`` is the model right after masking, before
    fine-tuning (weights only). If val is part of the training images, no best is kept, and the last
    counts. With several budgets, each has its files, such as ``masked_0.3.ckpt`` and
    ``finetune_0.3-best.ckpt``. Every write is atomic.

    The last is saved at the end of an epoch that ends a phase, that is the best so far, or that
    comes ``every_seconds`` after the last save. After SIGTERM, SIGUSR1 or Ctrl-C it is saved too,
    and the run ends: after the present step (on several devices, after the next of every
    ``log_every_n_steps``), or, during validation, at the end of the epoch. So does a run that
    ``max_time`` or another callback stops. Where a run was interrupted changes no result.

    It is a ModelCheckpoint only so that Lightning takes ``ckpt_path="best"``, the best of the phase
    or budget that was trained last, and ``ckpt_path="last"``.

    Args:
        monitor: Metric that chooses the best. Higher is better; of equals, the latest is taken.
        every_n_steps: Number of steps after which the last is saved too. Useful for long epochs.
            Default: only at the end of an epoch.
        every_seconds: Number of seconds after which the last is saved at the end of any epoch. A
            run that is killed loses the work of this time and one epoch at most. 0 saves it at the
            end of each epoch.

    Raises:
        UsageError: For ``every_n_steps`` below 1, for negative seconds, for a metric of the test
            split or a loss, and in validation for a metric that is not logged.
    """

    # Nothing of a ModelCheckpoint is used: its constructor is not called, its hooks are replaced.
    state_key = pl.Callback.state_key
    on_train_end = pl.Callback.on_train_end

    def __init__(
        self,
        monitor: str = "val/accuracy",
        every_n_steps: int | None = None,
        every_seconds: float = 30.0,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UsageError(f"every_n_steps={every_n_steps}; give at least 1, or null")
        if not every_seconds >= 0:
            raise UsageError(f"every_seconds={every_seconds}; give a number of at least 0")
        check_monitor(monitor, "PhaseCheckpoint.monitor")
        self.monitor, self.every_n_steps = monitor, every_n_steps
        self.every_seconds, self._saved = every_seconds, time.monotonic()
        self.best_model_path = ""
        self._best: dict[str, float] = {}
        self._fresh: float | None = None  # the metric, if this epoch has measured it

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "fresh": self._fresh}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._fresh = state_dict["best"], state_dict["fresh"]

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._best, self._fresh, self._saved = {}, None, time.monotonic()
        strategy: Any = trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:  # the default of Lightning
            strategy.checkpoint_io = AtomicCheckpointIO()

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Else Lightning would leave an epoch when it is asked to stop, and count it as trained.
        trainer.fit_loop.min_epochs = trainer.max_epochs

    # Lightning takes the signals at the start of the run, so that these hooks are the first to come
    # after it. It restores the earlier handlers when the run ends.
    @override
    def on_sanity_check_start(self, *_: Any, **__: Any) -> None:
        signals.listen()

    on_train_start = on_sanity_check_start

    @override
    def teardown(self, *_: Any, **__: Any) -> None:
        signals.forget()

    on_exception = teardown

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        number = batch_idx + 1
        if number == trainer.num_training_batches or number % trainer.accumulate_grad_batches:
            return  # the epoch's end comes at once; gradients are not saved
        every = cast(Any, trainer).log_every_n_steps or 50
        ask = trainer.world_size == 1 or number % every == 0
        signal = self._largest(trainer, signals.received()) if ask else 0
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        ends = signal or self._is_stopped(trainer)
        if ends or due:
            self._save_last(trainer)
        if ends:
            self._end(trainer, signal)

    def on_prompts_masked(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, budget: str
    ) -> None:
        """Save the model with the mask of ``budget``."""
        self._save(trainer, named("masked", budget), weights_only=True)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(str(self.monitor))
        if value is None and trainer.state.fn == "fit":
            raise UsageError(
                f"PhaseCheckpoint.monitor={self.monitor!r} is not logged; take one of "
                f"{', '.join(sorted(m for m in trainer.callback_metrics if m.startswith('val')))}"
            )
        self._fresh = None if trainer.sanity_checking or value is None else float(value)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Reducing the epoch's metrics is collective, and a progress bar, which only the first
        # process has, may have begun it: all must come here before they save.
        _ = trainer.callback_metrics
        phase, epochs = self._phase(trainer), trainer.current_epoch + 1
        value, self._fresh = self._fresh, None
        data = image_data(trainer)
        trained_on = data is not None and not data.held_out  # then accuracy chooses nothing
        better = value is not None and value >= self._best.get(phase, float("-inf"))
        # The clocks of several processes differ.
        late = self._largest(trainer, time.monotonic() - self._saved >= self.every_seconds)
        signal, stopped = self._largest(trainer, signals.received()), self._is_stopped(trainer)
        is_over = epochs >= (trainer.max_epochs or 0) or trainer.global_step == trainer.max_steps
        ends_phase = require_tuner(pl_module).schedule.ends_phase(epochs) or is_over
        if better and not trained_on:
            self._best[phase] = cast(float, value)
            self._save(trainer, f"{phase}-best")
            self._save_last(trainer, same_as=f"{phase}-best")
        elif late or signal or stopped or ends_phase:
            self._save_last(trainer)
        best = folder_of(trainer) / CHECKPOINTS / f"{phase}-best.ckpt"
        last = best.with_stem(f"{phase}-last")
        self.best_model_path = str(best if best.is_file() else last)
        if (signal or stopped) and epochs < (trainer.max_epochs or 0):
            self._end(trainer, signal)

    @staticmethod
    def _is_stopped(trainer: pl.Trainer) -> bool:
        """Return whether the Trainer was asked to stop before its last epoch, if there is one."""
        return trainer.should_stop and not trainer.fit_loop._can_stop_early

    @staticmethod
    def _largest(trainer: pl.Trainer, number: int) -> int:
        """Return the largest ``number`` of all processes; all must call together."""
        if trainer.world_size == 1:
            return number
        mine = torch.tensor(int(number), device=trainer.strategy.root_device)
        return int(cast(Tensor, trainer.strategy.reduce(mine, reduce_op="max")))

    @staticmethod
    def _end(trainer: pl.Trainer, signal: int) -> None:
        if trainer.is_global_zero:
            signals.announce(signal)
        trainer.strategy.barrier("interrupted")
        leave_group_at_exit()
        strategy = trainer.strategy
        environment = strategy.cluster_environment if isinstance(strategy, DDPStrategy) else None
        launched = isinstance(environment, LightningEnvironment) and trainer.local_rank != 0
        raise signals.Interrupted(signal, launched)

    @staticmethod
    def _phase(trainer: pl.Trainer) -> str:
        module = require_tuner(trainer.lightning_module)
        return named(module.phase_name, module.schedule.budget(trainer.current_epoch))

    def _save_last(self, trainer: pl.Trainer, same_as: str = "") -> None:
        """Save the last checkpoint; ``same_as`` is the name of one with the same content."""
        name = f"{self._phase(trainer)}-last"
        if same_as and isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            folder = folder_of(trainer) / CHECKPOINTS  # all processes must ask
            if trainer.is_global_zero:
                link_file(folder / f"{same_as}.ckpt", folder / f"{name}.ckpt")
        else:
            self._save(trainer, name)
        self._saved = time.monotonic()

    @staticmethod
    def _save(trainer: pl.Trainer, name: str, weights_only: bool = False) -> None:
        path = folder_of(trainer) / CHECKPOINTS / f"{name}.ckpt"
        trainer.save_checkpoint(path, weights_only=weights_only)

    @override
    def _find_last_checkpoints(self, trainer: pl.Trainer) -> set[str]:
        run = folder_of(trainer)
        saved = any((run / CHECKPOINTS).glob("*-last.ckpt"))
        return {str(last_checkpoint(run))} if saved else set()

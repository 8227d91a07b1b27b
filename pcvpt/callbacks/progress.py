"""What a person sees while a run trains: a live display of the whole run, or a line per epoch."""

import logging
import math
import time
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from pcvpt.training.module import require_tuner
from pcvpt.training.phases import Schedule

_SECONDS = 0.25  # at least, between two drawings


class PhaseProgressBar(ProgressBar):
    """Shows one live display of the whole run on a terminal, and prints a line per epoch elsewhere.

    Both have phase and epoch, images per second, the accuracy on val now and at its best in this
    phase, and the time that is left of all phases if each epoch takes as long as those since this
    start did. The display also says what comes next. Both keep silent where Lightning's logger is
    set to more than INFO. Validation, test and prediction on their own have a display alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None  # on a terminal
        self._drawn = 0.0
        self._enabled = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_live": None}  # it can't be copied; hooks of a model may reach it

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        console = Console()
        heard = logging.getLogger("lightning.pytorch").isEnabledFor(logging.INFO)
        if console.is_terminal and heard and self._enabled:
            # Without the thread that draws by itself: loaders fork processes.
            self._live = Live(console=console, auto_refresh=False, transient=True)
        self._accuracies: list[float] = []
        self._batches = 0  # trained since this start
        self._new_epoch()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        schedule, epoch = require_tuner(pl_module).schedule, trainer.current_epoch
        self._new_epoch()
        if schedule.ends_phase(epoch):
            self._accuracies = []  # those of another model
        if schedule.budgets and epoch == schedule.prompt_epochs:
            self._draw("scoring the prompts and condensing them")

    def _new_epoch(self) -> None:
        """Begin to count; a run that is resumed within an epoch has no start of that epoch."""
        self._begun = 0.0  # until its first batch
        self._images, self._speed = 0, 0.0
        self._validated = False

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self._begun = self._begun or time.monotonic()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, n: int
    ) -> None:
        self._images += len(batch[1]) * trainer.world_size
        self._batches += 1
        self._speed = self._images / max(time.monotonic() - self._begun, 1e-9)
        if self._is_due():
            self._draw(self._display(trainer, require_tuner(pl_module).schedule, n + 1))

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and "val/accuracy" in trainer.callback_metrics:
            self._accuracies.append(100 * float(trainer.callback_metrics["val/accuracy"]))
            self._validated = True

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._live is None:
            schedule, epoch = require_tuner(pl_module).schedule, trainer.current_epoch
            parts = [f"loss {float(trainer.callback_metrics['train/loss']):.3f}"]
            parts += self._numbers(trainer, schedule, int(trainer.num_training_batches))
            rank_zero_info(f"{_where(schedule, epoch)}: {', '.join(parts)}")

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw("measuring and writing the results")

    def _note_batch(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn != "fit" and self._is_due():
            self._draw(f"{trainer.state.fn}: batch {batch_idx + 1}")

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _note_batch

    @override
    def on_fit_end(self, *_: Any, **__: Any) -> None:
        if self._live is not None:
            self._live.stop()

    teardown = on_exception = on_fit_end

    def _is_due(self) -> bool:
        return self._live is not None and time.monotonic() - self._drawn >= _SECONDS

    def _draw(self, shown: RenderableType) -> None:
        if self._live is not None:
            self._live.start()
            self._live.update(shown, refresh=True)
            self._drawn = time.monotonic()

    def _display(self, trainer: pl.Trainer, schedule: Schedule, batch: int) -> Group:
        epoch, batches = trainer.current_epoch, trainer.num_training_batches
        done, total = epoch + batch / batches, schedule.total_epochs
        line = Table.grid(padding=(0, 2))
        line.add_row(
            Text(_where(schedule, epoch), style="bold"),
            Bar(total, done, width=24),
            f"epoch {epoch + 1} of all {total}",
        )
        return Group(
            line,
            Text(", ".join(self._numbers(trainer, schedule, batch))),
            Text(_next(schedule, epoch), style="dim"),
        )

    def _numbers(self, trainer: pl.Trainer, schedule: Schedule, batch: int) -> list[str]:
        """Return accuracy, speed and time left, as far as known after ``batch`` of this epoch."""
        numbers = []
        if self._accuracies and (self._validated or self._live):  # a line tells what is new
            best = max(self._accuracies)
            numbers.append(f"val accuracy {self._accuracies[-1]:.2f} % (best {best:.2f} %)")
        if self._speed:
            numbers.append(f"{self._speed:,.0f} images/s")
        epochs = schedule.total_epochs - trainer.current_epoch
        left = epochs * trainer.num_training_batches - batch
        if self._batches and math.isfinite(left):
            seconds = (time.monotonic() - self._started) / self._batches * left
            numbers.append(f"{timedelta(seconds=round(seconds))} left")
        return numbers


def _where(schedule: Schedule, number: int) -> str:
    """Return phase and epoch, such as "prompt 3/20" or "finetune 0.3 1/5"."""
    epoch, budget = schedule.single_budget_epoch(number), schedule.budget(number)
    if epoch < schedule.prompt_epochs:
        return f"prompt {epoch + 1}/{schedule.prompt_epochs}"
    phase = f"finetune {budget}".rstrip()
    return f"{phase} {epoch + 1 - schedule.prompt_epochs}/{schedule.finetune_epochs}"


def _next(schedule: Schedule, epoch: int) -> str:
    budgets = schedule.budgets
    if budgets and epoch < schedule.prompt_epochs:
        each = f" of each budget: {', '.join(budgets)}" * (len(budgets) > 1)
        return f"next: scoring, condensing, fine-tuning{each}"
    later = budgets[budgets.index(schedule.budget(epoch)) + 1 :] if budgets else ()
    return f"next: budget {', '.join(later)}" if later else "next: the results"

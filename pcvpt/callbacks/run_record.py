"""Record of a run in its folder, beside the checkpoints: its starts, and a table of its epochs."""

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger
from typing_extensions import override

from pcvpt.errors import UsageError
from pcvpt.runs.atomic import write_csv, write_json
from pcvpt.runs.environment import describe_environment
from pcvpt.runs.folder import ENVIRONMENT, folder_of, read_json
from pcvpt.runs.lock import RunLock
from pcvpt.training.callback_protocols import RunWriter, image_data
from pcvpt.training.module import require_tuner

_UNCHANGED = {
    "data_hash": "images, labels or sizes of files differ",
    "global_batch": "a step has batch_size x devices x accumulated batches; change batch_size",
}


class RunRecord(RunWriter):
    """Keeps ``environment.json`` and ``metrics.csv`` in the run folder.

    ``environment.json`` has an entry for each start of the run: command, versions, state of git,
    machine, seeds, data, devices, and completed epochs. A run is not resumed with other data or
    another global batch than it began with, nor while another process trains it.

    ``metrics.csv`` has a row for each epoch. It is written before each checkpoint and at the end,
    so that it has all epochs before the one with which a resumed run begins. It is ``epochs.csv``
    where a ``CSVLogger`` writes a ``metrics.csv`` beside it. If a run was resumed within an epoch,
    the averages of that epoch over the training images are empty.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._written = 0  # rows
        self._validated = False
        self._lock = RunLock()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._rows, self._written = [], 0
        _require_one_start(trainer)
        folder = folder_of(trainer)
        taken = self._lock.take(folder) if trainer.is_global_zero else None
        taken = trainer.strategy.broadcast(taken)  # all end, or none does
        if taken:
            raise UsageError(f"{folder}: {taken} trains this run; let it end first")

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder, module = folder_of(trainer), require_tuner(pl_module)
        start = {
            **describe_environment(),
            "seed": module.run_seed,
            "devices": trainer.world_size,
            "strategy": type(trainer.strategy).__name__,
            "precision": str(trainer.precision),
            "global_batch": module.global_batch,
            "epochs_before": module.resumed.epochs,
            "batches_before": module.resumed.batches,
        }
        data = image_data(trainer)
        if data is not None:
            start |= {"data": data.source, "data_hash": data.hash, "data_seed": data.seed}
        wrong = self._note_start(trainer, folder, start) if trainer.is_global_zero else None
        wrong = trainer.strategy.broadcast(wrong)
        if wrong:
            raise UsageError(wrong)

    def _note_start(self, trainer: pl.Trainer, folder: Path, start: dict[str, Any]) -> str | None:
        """Add ``start`` to the starts of the run; return an error if it can't be resumed so."""
        file, table = folder / ENVIRONMENT, _table(trainer, folder)
        starts = read_json(file)["starts"] if file.is_file() else []
        for name, hint in _UNCHANGED.items():
            before, now = starts[0].get(name) if starts else start.get(name), start.get(name)
            if before != now:
                return (
                    f"{folder}: the run began with {name}={before}, now it is {now} ({hint}); to "
                    "continue as a new run, give its checkpoint by --ckpt_path"
                )
        # A run that is resumed goes on under the name that a service has given it.
        loggers = [(type(x).__name__, x.version and str(x.version)) for x in trainer.loggers]
        write_json(file, {"starts": [*starts, {**start, "loggers": loggers}]})
        if table.is_file():
            with table.open(newline="") as lines:
                rows = list(csv.DictReader(lines))
            self._rows = [row for row in rows if int(row["epoch"]) < start["epochs_before"]]
            self._written = len(self._rows)
        return None

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        module, epoch = require_tuner(pl_module), trainer.current_epoch
        partial = module.resumed.batches > 0 and epoch == module.resumed.epochs
        validated, self._validated = self._validated, False
        if not trainer.is_global_zero:
            return
        stale = ("phase", *("train/",) * partial, *("val/",) * (not validated))
        row = {
            "epoch": epoch,
            "step": trainer.global_step,
            "phase": module.phase_name,
            "budget": module.schedule.budget(epoch),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
        }
        row |= {name: metrics[name] for name in sorted(metrics) if not name.startswith(stale)}
        self._rows.append(row)

    @override
    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        folder = folder_of(trainer)  # all processes must ask
        if len(self._rows) > self._written:
            write_csv(_table(trainer, folder), self._rows)
            self._written = len(self._rows)

    on_train_end = on_save_checkpoint

    @override
    def teardown(self, *_: Any, **__: Any) -> None:
        self._lock.release()

    on_exception = teardown


def _table(trainer: pl.Trainer, folder: Path) -> Path:
    tables = [Path(x.log_dir) for x in trainer.loggers if isinstance(x, CSVLogger)]
    other = folder / "epochs.csv"
    return other if folder in tables or other.is_file() else folder / "metrics.csv"


def _require_one_start(trainer: pl.Trainer) -> None:
    """Raise a UsageError on all processes unless they all resume the same checkpoint."""
    mine = str(trainer.ckpt_path)
    first = trainer.strategy.broadcast(mine)
    if not trainer.strategy.reduce_boolean_decision(mine == first):
        raise UsageError(
            f"the processes don't resume the same checkpoint: this one {mine}, the first {first}; "
            "output_dir must be a folder that is the same for all nodes"
        )

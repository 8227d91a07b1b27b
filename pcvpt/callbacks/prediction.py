"""Predictions as a table."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from pcvpt.errors import UsageError
from pcvpt.runs.atomic import atomic_file, check_writable, write_csv
from pcvpt.training.callback_protocols import RunWriter
from pcvpt.training.evaluation import part_of
from pcvpt.training.module import require_tuner

Rows = list[dict[str, Any]]


def check_table(path: Path, top: int) -> None:
    """Raise a UsageError if predictions can't be written to ``path``, or ``top`` is below 1."""
    if top < 1:
        raise UsageError(f"top={top}; give at least 1")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise UsageError(f"{path}: pyarrow is not installed; pip install pyarrow, or write .csv")
    check_writable(path)


def rows_of(
    images: Sequence[str],
    probabilities: Tensor,
    classes: Sequence[str],
    top: int = 1,
    every: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each image, with the ``top`` most probable classes.

    ``probabilities`` are ``(b, classes)``. The columns of more than one class are numbered.
    ``every`` adds a column for each class.
    """
    shares, guesses = probabilities.float().topk(min(top, len(classes)))
    for n, image in enumerate(images):
        row: dict[str, Any] = {"image": image}
        best = zip(guesses[n].tolist(), shares[n].tolist(), strict=True)
        for place, (guess, share) in enumerate(best, 1):
            ending = f"_{place}" * (top > 1)
            row |= {f"class{ending}": classes[guess], f"probability{ending}": share}
        if every:
            own = zip(classes, probabilities[n].tolist(), strict=True)
            row |= {f"probability of {name}": share for name, share in own}
        yield row


def write_rows(path: Path, rows: Rows) -> None:
    """Write ``rows`` as CSV, with six digits, or as Parquet where ``path`` ends so."""
    if path.suffix != ".parquet":
        texts = [
            {k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        ]
        write_csv(path, texts)
        return
    from pyarrow import Table, parquet

    with atomic_file(path) as file:
        parquet.write_table(Table.from_pylist(rows), file)


class PromptFreezer(Callback):
    """Freezes the prompts of the model before it predicts; it can't be trained afterwards."""

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        require_tuner(pl_module).model.freeze_prompts()


class PredictionWriter(RunWriter):
    """Writes a table of image, class and probability, with one row per image in the order given.

    The file is written once all images are predicted. If a limit of the Trainer leaves out some of
    them, ``_partial`` is added to its name.

    Args:
        path: Path of the file, CSV or ``.parquet``. Each further process writes one more.
        top: Number of the most probable classes to write.
        probabilities: Whether to write the probabilities of all classes.
    """

    def __init__(
        self, path: str = "predictions.csv", top: int = 1, probabilities: bool = False
    ) -> None:
        self.path, self.top, self.probabilities = Path(path).expanduser(), top, probabilities

    def check_run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise a UsageError if the file can't be written."""
        if trainer.state.fn == "predict":
            check_table(self.path, self.top)

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._part = part_of(trainer.num_predict_batches, trainer.predict_dataloaders)
        rank = f"_{trainer.global_rank}" if trainer.global_rank else ""
        ending = f"{rank}_partial" if self._part else rank
        self._file = self.path.with_stem(self.path.stem + ending)
        self._rows: Rows = []

    @override
    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        names = require_tuner(pl_module).class_names
        self._rows += rows_of(batch[1], outputs, names, self.top, self.probabilities)

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        write_rows(self._file, self._rows)
        print(f"Predictions: {self._file}" + (f", only {self._part}" if self._part else ""))

"""TensorBoard pages of a run, one for each logger that writes one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch import Tensor
from torch.utils.tensorboard.summary import hparams


class Board:
    """Everything that is written to TensorBoard.

    Args:
        trainer: Trainer whose loggers are asked. Only its first process may write.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
        self._writers: list[Any] = [logger.experiment for logger in loggers]

    @property
    def folders(self) -> list[Path]:
        """Folders of the pages."""
        return [Path(writer.log_dir) for writer in self._writers]

    def begin(self) -> None:
        """Mark the first start of the run.

        Readers replace what a later start repeats only after such a mark. The writer itself marks
        only later starts (``purge_step``).
        """
        start = SessionLog(status=SessionLog.START)
        for writer in self._writers:
            writer._get_file_writer().add_event(Event(step=0, session_log=start))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        for writer in self._writers:
            writer.add_scalar(tag, value, step)

    def add_histogram(self, tag: str, values: Tensor, step: int) -> None:
        """Add a histogram of finite ``values``."""
        for writer in self._writers:
            writer.add_histogram(tag, values, step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        """Add a text in Markdown."""
        for writer in self._writers:
            writer.add_text(tag, text, step)

    def add_image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Add an image ``(h, w, 3)``, uint8."""
        for writer in self._writers:
            writer.add_image(tag, pixels, step, dataformats="HWC")

    def add_layout(self, layout: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
        """Set which curves share a chart on the page of custom scalars."""
        for writer in self._writers:
            writer.add_custom_scalars(layout)

    def add_session(
        self, settings: Mapping[str, Any], metrics: Mapping[str, float], step: int
    ) -> None:
        """Add the row of the run to the table of runs.

        ``SummaryWriter.add_hparams`` would add another run for it.
        """
        for writer in self._writers:
            for summary in hparams(dict(settings), dict(metrics)):
                writer._get_file_writer().add_summary(summary, step)
        for tag, value in metrics.items():
            self.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Write to the disk what is still in memory."""
        for writer in self._writers:
            writer.flush()

"""One TensorBoard page, in the words of what is to be seen on it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from pcvpt.analysis.figures.style import Figure, pixels_of


class Board:
    """What a :class:`SummaryWriter` writes, in the house style."""

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer: Any = writer

    @property
    def folder(self) -> Path:
        """Where it is written to."""
        return Path(self._writer.log_dir)

    def begin(self) -> None:
        """Mark the run's first start: readers take what a later one repeats only after such a mark.

        The writer itself marks only later ones (``purge_step``).
        """
        start = SessionLog(status=SessionLog.START)
        self._writer._get_file_writer().add_event(Event(step=0, session_log=start))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        self._writer.add_scalar(tag, value, step)

    def add_curve(self, tag: str, values: Sequence[float]) -> None:
        """Add a curve over 0, 1, 2, ... instead of steps."""
        for number, value in enumerate(values):
            self._writer.add_scalar(tag, value, number)

    def add_histogram(self, tag: str, values: Tensor, step: int) -> None:
        """Add a histogram of finite ``values``."""
        self._writer.add_histogram(tag, values, step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        """Add a text in Markdown."""
        self._writer.add_text(tag, text, step)

    def add_figure(self, tag: str, make: Callable[[], Figure], step: int) -> None:
        """Add what ``make`` draws, as an image."""
        # The writer's own add_figure would import pyplot.
        self._writer.add_image(tag, pixels_of(make), step, dataformats="HWC")

    def add_layout(self, layout: Mapping[str, Mapping[str, Any]]) -> None:
        """Say which curves share a chart on the page of custom scalars."""
        self._writer.add_custom_scalars(layout)

    def add_session(
        self, settings: Mapping[str, Any], metrics: Mapping[str, float], step: int
    ) -> None:
        """Add the run's row to the table of runs; unlike add_hparams, not as a run of its own."""
        for summary in hparams(dict(settings), dict(metrics)):
            self._writer._get_file_writer().add_summary(summary, step)
        for tag, value in metrics.items():
            self._writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Write what is waiting."""
        self._writer.flush()

"""What ``SummaryWriter`` leaves undone: marks of a start, and a row in the table of runs."""

from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard.summary import hparams


def mark_start(writer: Any) -> None:
    """Mark the first start of the run.

    Readers replace what a later start repeats only after such a mark. The writer itself marks
    only later starts (``purge_step``).
    """
    event = Event(step=0, session_log=SessionLog(status=SessionLog.START))
    writer._get_file_writer().add_event(event)


def add_session(
    writer: Any, settings: Mapping[str, Any], metrics: Mapping[str, float], step: int
) -> None:
    """Add the row of the run to the table of runs.

    ``SummaryWriter.add_hparams`` would add another run for it. ``metrics`` are in curves already.
    """
    for summary in hparams(dict(settings), dict(metrics)):
        writer._get_file_writer().add_summary(summary, step)

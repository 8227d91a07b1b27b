"""What loggers leave undone: marks of a start, a row in the table, pictures, and no failed run."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard.summary import hparams

Observer = TypeVar("Observer")
SHOW_PICTURES = TensorBoardLogger | WandbLogger | MLFlowLogger


def observer(callback: type[Observer]) -> type[Observer]:
    """Let ``callback`` write while it has loggers, until an error, which is only a warning."""

    def guarded(hook: Callable[..., None]) -> Callable[..., None]:
        @wraps(hook)
        def run(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                if self._loggers:
                    hook(self, *args, **kwargs)
            except Exception as error:  # the run itself can continue
                rank_zero_warn(f"The board ends here: {type(error).__name__}: {error}")
                self._pages, self._loggers = [], []

        return run

    for name, hook in list(vars(callback).items()):
        if name.startswith("on_"):
            setattr(callback, name, guarded(hook))
    return callback


def mark_start(writer: Any) -> None:
    """Mark the first start of the run: else readers do not replace what a later start repeats."""
    event = Event(step=0, session_log=SessionLog(status=SessionLog.START))
    writer._get_file_writer().add_event(event)


def add_session(
    writer: Any, settings: Mapping[str, Any], metrics: Mapping[str, float], step: int
) -> None:
    """Add the row of the run to the table of runs; ``add_hparams`` would add another run for it."""
    for summary in hparams(dict(settings), dict(metrics)):
        writer._get_file_writer().add_summary(summary, step)


def add_picture(logger: Logger, tag: str, pixels: np.ndarray, step: int) -> None:
    """Add the picture ``pixels`` ``(h, w, 3)``, uint8, to ``logger``, if it can show one."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, pixels, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(tag, [pixels], step)
    elif isinstance(logger, MLFlowLogger):
        client, run = logger.experiment, logger.run_id
        client.log_image(run, pixels, key=tag, step=step, synchronous=True)

"""What is wrong with the section ``trainer``: what Lightning does not check, and what it does."""

import traceback
from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from pcvpt.errors import UsageError

_AT_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
    "num_nodes": 1,
}


def check_ranges(options: Mapping[str, Any], training: bool) -> None:
    """Refuse numbers that would end in a division by zero, or in nothing trained.

    Args:
        options: the section ``trainer``.
        training: whether the command trains.

    Raises:
        UsageError: naming the option, its value and its least one.
    """
    for name, least in _AT_LEAST.items():
        value = options.get(name)
        if value is not None and not value >= least:
            raise UsageError(f"trainer.{name}={value}; give at least {least}")
    if training and options.get("limit_train_batches") == 0:
        raise UsageError("trainer.limit_train_batches=0 leaves nothing to train on; leave it out")


def complaint_of_lightning(error: BaseException) -> str | None:
    """Return on one line what Lightning says of its user's options; None for any other error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    module = str(frames[-1][0].f_globals.get("__name__")) if frames else ""
    own = isinstance(error, ValueError) and module.startswith("lightning.")
    if not own and not isinstance(error, MisconfigurationException):
        return None
    return f"trainer: {' '.join(str(error).split())}"

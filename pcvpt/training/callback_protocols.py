"""Protocols for callbacks that follow a run, those that write it, and the DataModule of a run."""

from typing import Any, Protocol, cast, runtime_checkable

import lightning.pytorch as pl

from pcvpt.data import ImageDataModule


@runtime_checkable
class ChecksRun(Protocol):
    """A callback that checks a run before it begins."""

    def check_run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise a UsageError for a run that cannot work; no data were read yet."""


@runtime_checkable
class HearsPromptsTrained(Protocol):
    """A callback that is told when prompt training is over."""

    def on_prompts_trained(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Receive the model with all of its prompts, before they are scored."""


@runtime_checkable
class HearsPromptsMasked(Protocol):
    """A callback that is told of each budget's mask."""

    def on_prompts_masked(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, budget: str
    ) -> None:
        """Receive the model with the mask of ``budget``, such as "0.3", or "" for the only one."""


@runtime_checkable
class HasSettings(Protocol):
    """A callback whose options belong in the table of runs."""

    def settings(self) -> dict[str, str | float | int | bool]:
        """Return the options by name."""


class RunWriter(pl.Callback):
    """A callback that only writes files of a run; it is left out of a ``trainer.fast_dev_run``."""


def image_data(trainer: pl.Trainer) -> ImageDataModule | None:
    """Return the data module of ``trainer``; None without one, or for one of another kind."""
    data = cast(Any, trainer).datamodule
    return data if isinstance(data, ImageDataModule) else None

"""From the options of a command to a model and its data, without a Trainer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from lightning.pytorch.cli import LightningArgumentParser

from pcvpt.callbacks import PromptCondensation
from pcvpt.cli.config_errors import parse
from pcvpt.data import ImageDataModule
from pcvpt.training.module import PromptTuner


class Configured(NamedTuple):
    """What a configuration says, and its parts.

    Attributes:
        config: all options, as plain values.
        tuner: the LightningModule, with the backbone's weights.
        data: the task; its ``input_spec`` is that of the tuner.
    """

    config: dict[str, Any]
    tuner: PromptTuner
    data: ImageDataModule


def merged(options: Sequence[str]) -> dict[str, Any]:
    """Parse ``options`` as `pcvpt fit` does; nothing is instantiated.

    Raises:
        UsageError: naming the file or the option, and what it may be.
    """
    parser = _parser()
    parser.add_class_arguments(PromptTuner, "model", skip={"num_classes"}, instantiate=False)
    parser.add_subclass_arguments(ImageDataModule, "data", required=False, instantiate=False)
    config: dict[str, Any] = parse(parser, parser, options).as_dict()
    return config


def configured(options: Sequence[str]) -> Configured:
    """Build what ``options`` say; the head is sized from the data.

    Raises:
        UsageError: as :func:`merged`, and for what model and data refuse.
    """
    parser = _parser()
    parser.add_lightning_class_args(PromptTuner, "model")
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
    config = parse(parser, parser, options)
    made = parser.instantiate_classes(config)
    made.data.input_spec = made.model.input_spec
    return Configured(config.as_dict(), made.model, made.data)


def _parser() -> LightningArgumentParser:
    """Return a parser of all sections of a run's configuration but the model's and the data's."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("-c", "--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=bool | int)
    for name in ("output_dir", "name", "predictions"):
        parser.add_argument(f"--{name}", type=str | None)
    for name in ("resume", "retest"):  # of a run's own config.yaml; nothing here
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_class_arguments(pl.Trainer, "trainer", instantiate=False)
    parser.add_class_arguments(PromptCondensation, "condense", instantiate=False)
    parser.add_method_arguments(
        pl.Trainer,
        "fit",
        skip={"model", "datamodule", "train_dataloaders", "val_dataloaders"},
    )
    return parser

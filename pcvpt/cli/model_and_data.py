"""From options to a model and its data, without a Trainer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jsonargparse import Namespace

from pcvpt.cli.checks import check_data
from pcvpt.cli.config_errors import parse
from pcvpt.cli.parser import build_parser
from pcvpt.data import ImageDataModule
from pcvpt.data.splits import Classes
from pcvpt.training.module import PromptTuner


class Configured(NamedTuple):
    """A configuration, and the objects that it describes.

    Attributes:
        config: All options, as plain values.
        tuner: LightningModule, with the weights of the backbone.
        data: DataModule; its ``input_spec`` is that of the tuner.
    """

    config: dict[str, Any]
    tuner: PromptTuner
    data: ImageDataModule


def configured(options: Sequence[str], classes: Classes | None = None) -> Configured:
    """Build model and data of ``options``, with ``classes`` or else those of the data.

    Raises:
        UsageError: Option that does not fit, or that model or data refuse.
    """
    config = parse("fit", options)
    check_data("fit", config)
    # Callbacks and loggers are not made.
    parts = Namespace(model=config.model, data=config.data)  # type: ignore[no-untyped-call]
    made = build_parser(classes=classes).instantiate(parts)
    made.data.use_classes(classes)
    made.data.input_spec = made.model.input_spec
    return Configured(config.as_dict(), made.model, made.data)

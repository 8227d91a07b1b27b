"""The start of prompt training: prompts from tokens, and a first loss that shows a wrong start."""

import math
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from pcvpt.errors import UsageError
from pcvpt.models.token_init import init_from_tokens
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.training.callback_protocols import image_data

PromptInit = Literal["uniform", "tokens"]
_IMAGES = 32


def check_prompt_init(prompt_init: str, mode: str) -> None:
    """Raise a UsageError for a start that is unknown, or that this mode does not have."""
    if prompt_init not in ("uniform", "tokens"):
        raise UsageError(f"prompt_init={prompt_init!r}; choose one of uniform, tokens")
    if prompt_init == "tokens" and mode == "linear":
        raise UsageError(
            "prompt_init='tokens' in mode 'linear', which has no prompts; leave it out"
        )


def start_from_tokens(trainer: pl.Trainer, model: PromptedTransformer, seed: int) -> None:
    """Let the prompts start as tokens of training images, evenly from the training split.

    With several processes, all take those that the first finds in its share of the images.
    """
    data = image_data(trainer)
    if data is None:
        raise UsageError("prompt_init='tokens' needs a DataModule of pcvpt.data; use 'uniform'")
    loader = cast(Any, data.scoring_dataloader())
    count = len(loader.dataset)
    places = torch.linspace(0, count - 1, min(_IMAGES, count)).long().tolist()
    if places:
        batch = loader.collate_fn(loader.dataset.__getitems__(places))
        batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
        init_from_tokens(model, batch[0], seed)
    first = [trainer.strategy.broadcast(values) for values in model.prompts.snapshot()]
    model.prompts.restore([values.to(model.prompts.device) for values in first])


class FirstLoss:
    """Warns once if the first loss of prompt training is far above that of a blind guess."""

    def __init__(self, classes: int) -> None:
        self._blind = math.log(classes)
        self._loss: Tensor | None = None
        self._told = False

    def note(self, loss: Tensor) -> None:
        """Remember the first loss; no value is read from the device."""
        if self._loss is None:
            self._loss = loss.detach()

    def tell(self) -> None:
        """Read the first loss, once, and warn if it is far too high."""
        if self._told or self._loss is None:
            return
        self._told = True
        loss = float(self._loss)
        if loss > 2 * self._blind + 1:
            rank_zero_warn(
                f"the first loss is {loss:.1f}, far above {self._blind:.1f}, of a blind guess; "
                "training may be slow to recover: set model.head_init=zero, and check that images "
                "are normalised as the backbone expects"
            )

"""The start of prompt training: prompts from tokens."""

from typing import Any, Literal, cast, get_args

import lightning.pytorch as pl
import torch

from pcvpt.errors import UsageError
from pcvpt.models.token_init import init_from_tokens
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.training.callback_protocols import image_data

PromptInit = Literal["uniform", "tokens"]
_IMAGES = 32


def check_prompt_init(prompt_init: str, mode: str) -> None:
    """Raise a UsageError for a start that is unknown, or that this mode does not have."""
    if prompt_init not in get_args(PromptInit):
        known = ", ".join(get_args(PromptInit))
        raise UsageError(f"prompt_init={prompt_init!r}; choose one of {known}")
    if prompt_init == "tokens" and mode == "linear":
        raise UsageError(
            "prompt_init='tokens' in mode 'linear', which has no prompts; set it to 'uniform'"
        )


def start_from_tokens(trainer: pl.Trainer, model: PromptedTransformer, seed: int) -> None:
    """Let the prompts start as tokens of 32 training images, which ``seed`` chooses.

    Every process reads the same images. All must call this, and end with the prompts of the first.
    """
    data = image_data(trainer)
    if data is None:
        raise UsageError("prompt_init='tokens' needs a DataModule of pcvpt.data; use 'uniform'")
    split: Any = data.scoring_dataloader().dataset  # of all processes
    places = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:_IMAGES]
    batch = trainer.precision_plugin.convert_input(split.__getitems__(places.tolist()))
    init_from_tokens(model, cast(Any, trainer.strategy.batch_to_device(batch))[0], seed)
    # On the CPU, because a tensor is received on the device that it was sent from.
    found = [values.cpu() for values in model.prompts.snapshot()]
    model.prompts.restore(trainer.strategy.broadcast(found))

"""What a budget leaves of the prompts, and how it is put into the model of a run."""

from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pcvpt.models.prompt_bank import Form, MergedLayer
from pcvpt.models.transformer import PromptedTransformer

Condensing = Literal["prune", "merge"]

# A mask (l, p), or the fields of the MergedLayer of each layer: plain, as checkpoints hold it.
Choice = Tensor | list[dict[str, Any]]


def apply_choice(model: PromptedTransformer, choice: Choice, form: Form | None) -> None:
    """Leave only ``choice`` of the prompts of ``model``, as ``form`` where it is given."""
    if isinstance(choice, Tensor):
        model.prompts.apply_mask(list(choice))
    else:
        model.prompts.apply_merge([MergedLayer(**layer) for layer in choice])
    if form == "key_value":
        model.use_keys_values()


def follow_parameters(trainer: pl.Trainer) -> None:
    """Let distributed training use the model's parameters of now; merging makes new ones."""
    strategy = trainer.strategy
    wrapped = strategy.model
    if isinstance(strategy, DDPStrategy) and isinstance(wrapped, DistributedDataParallel):
        reduced = {id(parameter) for parameter in wrapped.module.parameters()}
        if reduced == {id(parameter) for parameter in wrapped._module_parameters}:
            return
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()

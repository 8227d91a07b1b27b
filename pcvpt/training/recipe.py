"""Optimizer and schedule of one phase of training."""

import inspect
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pcvpt.errors import UsageError
from pcvpt.models import PromptBank, PromptedTransformer

REFERENCE_BATCH = 256  # learning rates are stated for this batch (Jia et al., ECCV 2022)
REPLACED = {"lr": "base_lr", "weight_decay": "weight_decay"}
"""Arguments of an optimizer that a recipe sets: theirs would do nothing. Its own names for them."""

_REFUSED: dict[type[Optimizer], str] = {
    torch.optim.SparseAdam: "takes no dense gradients",
    torch.optim.Rprop: "reads the learning rate at its first step only, so no schedule would act",
}


@dataclass
class PhaseRecipe:
    """Optimizer and schedule of one phase.

    Args:
        optimizer: Optimizer of the prompts and the head. Each phase makes its own.
        base_lr: Learning rate for 256 images per step over all devices. It is scaled linearly to
            the actual number.
        weight_decay: Weight decay of the prompts and of the head's weight. Biases have none.
        warmup_epochs: Number of epochs in which the rate rises linearly from 0, step by step.
        schedule: Rate after the warm-up: "cosine" falls to 0 at the end of the phase, "constant"
            stays.

    Raises:
        UsageError: For a negative or infinite number, for an optimizer that refuses the parameters
            or does not follow the schedule, and for an argument of it that would do nothing.
    """

    optimizer: OptimizerCallable
    base_lr: float = 1.0
    weight_decay: float = 0.0
    warmup_epochs: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        for name in ("base_lr", "weight_decay", "warmup_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name}={getattr(self, name)}; give a number of at least 0")
        # Made once, so that a wrong one fails now and not after the first phase.
        weights, bias = [torch.zeros(1, 1, 1), torch.zeros(1, 1)], [torch.zeros(1)]
        try:
            optimizer = self.optimizer([{"params": weights}, {"params": bias}])
        except (RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"optimizer: {error}; choose another, or other init_args") from error
        for kind, reason in _REFUSED.items():
            if isinstance(optimizer, kind):
                raise UsageError(f"optimizer: {kind.__name__} {reason}; choose another")
        if optimizer.defaults.get("differentiable"):
            raise UsageError("optimizer: differentiable=True can't train; leave it out")
        if self.weight_decay and "weight_decay" not in optimizer.defaults:
            raise UsageError(
                f"weight_decay={self.weight_decay}, but {type(optimizer).__name__} has none; give 0"
            )
        parameters, given = inspect.signature(type(optimizer)).parameters, {}
        if isinstance(self.optimizer, partial) and self.optimizer.func is type(optimizer):
            given = self.optimizer.keywords  # a configuration makes another kind, with all defaults
        for name in REPLACED.keys() & parameters.keys():
            value, default = optimizer.defaults[name], parameters[name].default
            if default is not inspect.Parameter.empty and (name in given or value != default):
                raise UsageError(replaced(f"optimizer: {name}={value}", name))

    def build(
        self, model: PromptedTransformer, global_batch: int, steps: int, steps_per_epoch: float
    ) -> tuple[Optimizer, LambdaLR]:
        """Return the optimizer of ``model`` for a phase of ``steps``, and its rate by step.

        The masked prompts stay as they are. A step has ``global_batch`` images over all devices.
        """
        groups = parameter_groups(model, self.weight_decay)
        for group in groups:
            group["lr"] = self.base_lr * global_batch / REFERENCE_BATCH
        optimizer = self.optimizer(groups)
        hold_masked_prompts(optimizer, model.prompts)
        if steps <= self.warmup_epochs * steps_per_epoch:
            rank_zero_warn(
                f"warmup_epochs={self.warmup_epochs:g}, but the phase has "
                f"{steps / steps_per_epoch:g} epochs: the full learning rate is never reached"
            )
        return optimizer, LambdaLR(optimizer, lambda n: self.factor(n, steps, steps_per_epoch))

    def factor(self, step: int, steps: int, steps_per_epoch: float) -> float:
        """Return the share of the full learning rate at ``step`` of the phase's ``steps``."""
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.schedule == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1.0, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))


def images_per_batch(loader: Any) -> int:
    """Return the number of images that ``loader`` gives at a time; raise a UsageError without."""
    for part in (loader, *(getattr(loader, n, None) for n in ("batch_sampler", "dataset"))):
        if size := getattr(part, "batch_size", None):
            return int(size)
    raise UsageError(
        "the learning rate depends on the number of images of a batch, which the loader does not "
        "tell; give it, its batch_sampler or its data set an attribute batch_size"
    )


def steps_per_epoch(trainer: pl.Trainer) -> float:
    """Return the number of optimizer steps of an epoch; raise a UsageError if it is not known."""
    steps = trainer.estimated_stepping_batches
    if not 0 <= steps < math.inf:
        raise UsageError(
            "the number of steps of an epoch is not known, and the learning rate depends on it; "
            "give the data set a length, or Trainer(limit_train_batches=...) a number"
        )
    return steps / max(1, trainer.max_epochs or 1)


def replaced(what: str, name: str) -> str:
    """Return the error about ``what``, which gives an optimizer its argument ``name``."""
    return f"{what} would do nothing: the recipe sets it; give {REPLACED[name]} beside optimizer"


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: decayed ones, and biases without decay."""
    trained = [(n.endswith("bias"), p) for n, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for is_bias, p in trained if not is_bias], "weight_decay": weight_decay},
        {"params": [p for is_bias, p in trained if is_bias], "weight_decay": 0.0},
    ]


def hold_masked_prompts(optimizer: Optimizer, bank: PromptBank) -> None:
    """Let weight decay and momentum of ``optimizer`` leave the masked prompts of ``bank`` alone."""
    gone = ~bank.keep
    if not bool(gone.any()):
        return
    # Places as numbers: each step would have to look them up in a mask, and wait for that.
    places = [(run, gone[layers].nonzero(as_tuple=True)) for layers, run in bank.runs()]
    held = [(run, place, run.detach()[place].clone()) for run, place in places]

    @torch.no_grad()
    def restore(*_: Any) -> None:
        for run, place, values in held:
            run[place] = values

    optimizer.register_step_post_hook(restore)

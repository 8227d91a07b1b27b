"""Cost of prompts as tokens and as keys and values, measured: counts, latency, memory.

Latency and memory are those of this machine, on blank images: neither depends on their content.

Axes: b images, l layers of the bank, p prompts of each.
"""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pcvpt.analysis.activation_memory import held_for_backward
from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.analysis.cost import condensed_cost
from pcvpt.analysis.latency import Spread, alternate, spread
from pcvpt.condensation.scoring import without_parameter_gradients
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer, create_model
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.models.transformer import Execution


class Form(NamedTuple):
    """One way to compute prompts: "tokens", "prefix", or "condensed".

    The model has at least the prompts of the mask ``keep`` ``(l, p)``.
    """

    name: str
    model: PromptedTransformer
    keep: Tensor
    execution: Execution


class MeasuredCost(NamedTuple):
    """Cost of one form, by the names of the columns of its table.

    Memory is what a step of training holds for backward; seconds are those of one forward pass
    without gradients, by batch size.
    """

    form: str
    prompts_per_layer: float  # mean
    prompts: int  # of all layers
    numbers_of_prompts: int  # that are trained: a key and a value have those of both
    multiply_accumulates: int  # of a batch of one image
    once_per_batch: int  # those of them that a batch computes once
    memory_bytes_per_image: float  # for each further image
    memory_bytes_once_per_batch: float
    seconds: dict[int, Spread]


def with_prompts(
    model: PromptedTransformer, prompts: int, execution: Execution = "prefix"
) -> PromptedTransformer:
    """Return a model of the same kind with ``prompts`` in each layer and random weights.

    As tokens, prompts of mode "prefix" are those of Deep.

    Raises:
        UsageError: If the model is a linear probe.
    """
    require_prompts(model)
    plan = model.blueprint
    assert plan is not None  # create_model made it
    made = create_model(
        plan.backbone,
        cast(Any, model).get_classifier().out_features,
        prompts,
        mode="deep" if model.mode == "prefix" and execution == "tokens" else model.mode,
        execution=execution,
        prompt_dropout=model.prompts.dropout,
        pretrained=False,
        pool_prompts=getattr(model, "pool_prompts", False),
        **plan.timm_kwargs,
    )
    return made.to(model.prompts.device, model.prompts.dtype).eval()


def forms(model: PromptedTransformer, counts: Sequence[int]) -> list[Form]:
    """Return both forms of each of ``counts``, and last the prompts that ``model`` keeps, if fewer.

    Args:
        model: Trained model.
        counts: Numbers of prompts of a layer; 0 is the backbone alone, in "tokens" timm's own.

    Raises:
        UsageError: If the model is a linear probe, or a count is negative.
    """
    if min(counts) < 0:
        raise UsageError(f"{list(counts)} prompts; give numbers of at least 0")
    most = max(*counts, 1)
    tokens = with_prompts(model, most, "tokens")
    # Only keys and values that are parameters are another model than the tokens.
    prefix = with_prompts(model, most) if model.mode == "prefix" else tokens
    keep = tokens.prompts.keep
    place = torch.arange(keep.shape[1], device=keep.device)
    likes: dict[Execution, PromptedTransformer] = {"tokens": tokens, "prefix": prefix}
    found = [
        Form(execution, like, (place < count).expand(len(keep), -1), execution)
        for execution, like in likes.items()
        for count in counts
    ]
    own, plan = model.prompts.keep, model.blueprint
    assert plan is not None  # create_model made it
    if not bool(own.all()) or own.shape[1] < plan.num_prompts:
        found.append(Form("condensed", model, own.clone(), "prefix"))
    return found


def measure_costs(
    measured: Sequence[Form], batches: Sequence[int] = (1, 8), repeats: int = 20
) -> list[MeasuredCost]:
    """Measure multiply-accumulates, latency and memory of each form. The models are not changed.

    Latency is that of evaluation mode; the forms take turns, after two rounds to warm up. Memory is
    that of training mode, in the precision of the model and without gradient checkpointing.

    Args:
        measured: Forms of :func:`forms`.
        batches: Batch sizes of the forward passes. Default: 1 and 8.
        repeats: Number of rounds for each batch size. Default: 20.

    Raises:
        UsageError: If a number is below 1, or the prompts are frozen.
    """
    for what, value in ("batch", min(batches)), ("repeats", repeats):
        if value < 1:
            raise UsageError(f"{what} {value}; give at least 1")
    models = {id(form.model): form.model for form in measured}
    for model in models.values():
        model.prompts.require_thawed()
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        times = {size: _times(measured, size, repeats) for size in batches}
    return [
        MeasuredCost(
            form.name,
            float(form.keep.sum()) / len(form.keep),
            int(form.keep.sum()),
            sum(block.trained for block in cost.blocks),
            cost.macs,
            cost.shared,
            *_memory(form),
            {size: spread(taken[i]) for size, taken in times.items()},
        )
        for i, form in enumerate(measured)
        for cost in [condensed_cost(form.model, list(form.keep), form.execution)]
    ]


def _times(measured: Sequence[Form], size: int, repeats: int) -> dict[int, list[float]]:
    """Return the seconds of each form, by its place, in each round."""
    # Not as compiled: each mask would be compiled again.
    sides = {
        i: partial(form.model.forward, _images(form.model, size)) for i, form in enumerate(measured)
    }
    device = measured[0].model.prompts.device
    return alternate(sides, repeats, device, warm=2, prepare=lambda i: _put_on(measured[i]))


def _put_on(form: Form) -> None:
    form.model.prompts.apply_mask(list(form.keep))
    if form.model.execution != form.execution:
        form.model.execution = form.execution


def _memory(form: Form) -> tuple[float, float]:
    """Return the bytes that each further image adds, and those held once for a batch."""
    model, few, more = form.model, 2, 4

    def held(size: int) -> int:
        labels = torch.zeros(size, dtype=torch.int64, device=model.prompts.device)
        return held_for_backward(model, _images(model, size), labels)

    # The backbone alone has no prompts to train.
    bare = nullcontext() if form.keep.any() else without_parameter_gradients(model.prompts)
    with evaluating(model, gradients=True), bare:
        _put_on(form)
        model.train()
        smaller, larger = held(few), held(more)
    image = (larger - smaller) / (more - few)
    return image, smaller - few * image


def _images(model: PromptedTransformer, size: int) -> Tensor:
    bank = model.prompts
    return torch.zeros(size, 3, *model.patch_embed.img_size, device=bank.device, dtype=bank.dtype)

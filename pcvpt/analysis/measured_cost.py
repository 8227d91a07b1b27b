"""What a number of prompts costs: multiply-accumulates, and measured latency and memory.

The counts are those of :mod:`pcvpt.analysis.cost`; in the token form they are Table 1 of Kim et
al., arXiv 2305.17223. Time and memory are of the machine at hand, and of blank images: neither
depends on what the images show.

Axes: b images, l layers of the bank, p prompts of each.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pcvpt.analysis.activation_memory import held_for_backward
from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.analysis.cost import condensed_cost
from pcvpt.analysis.latency import Side, Spread, alternate, spread
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer, create_model
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.models.transformer import Execution


class Form(NamedTuple):
    """One way to compute prompts.

    Attributes:
        name: "tokens", "prefix", or "condensed".
        model: with at least these prompts.
        keep: which of them, ``(l, p)``.
        execution: of the model.
    """

    name: str
    model: PromptedTransformer
    keep: Tensor
    execution: Execution

    @property
    def prompts(self) -> float:
        """Prompts of a layer, the mean over all."""
        return float(self.keep.sum()) / len(self.keep)


class Measured(NamedTuple):
    """What one form costs.

    Attributes:
        form: its name.
        prompts: of a layer, the mean over all.
        total: prompts of all layers.
        macs: multiply-accumulates of one image alone.
        shared: those of them that a batch pays once.
        latency: by size of the batch, the seconds of one forward pass without gradients.
        memory: bytes that a further image of a batch has a step of training hold for backward.
        memory_shared: bytes that are held once for a batch.
    """

    form: str
    prompts: float
    total: int
    macs: int
    shared: int
    latency: dict[int, Spread]
    memory: float
    memory_shared: float


def with_prompts(model: PromptedTransformer, prompts: int) -> PromptedTransformer:
    """Return a model like ``model`` with ``prompts`` in each layer, and with random weights.

    Raises:
        UsageError: for a linear probe, and for more prompts than fit into memory.
    """
    require_prompts(model)
    plan = model.blueprint
    assert plan is not None  # create_model made it
    made = create_model(
        plan.backbone,
        cast(Any, model).get_classifier().out_features,
        prompts,
        mode=model.mode,
        prompt_dropout=model.prompts.dropout,
        pretrained=False,
        pool_prompts=getattr(model, "pool_prompts", False),
        **plan.timm_kwargs,
    )
    return made.to(model.prompts.device, model.prompts.dtype).eval()


def forms(
    model: PromptedTransformer, counts: Sequence[int], like: PromptedTransformer | None = None
) -> list[Form]:
    """Return both forms of each of ``counts``, and last what ``model`` keeps, if not all.

    Args:
        model: the trained one.
        counts: prompts of a layer; 0 is the backbone alone, of which "tokens" is timm's own.
        like: made by :func:`with_prompts`; one with as many as are needed if None.
    """
    require_prompts(model)
    most = max(*counts, 1)
    like = like or with_prompts(model, most)
    keep = like.prompts.keep
    if most > keep.shape[1] or min(counts) < 0:
        raise UsageError(f"{list(counts)} prompts; give numbers from 0 to {keep.shape[1]}")
    place = torch.arange(keep.shape[1], device=keep.device)
    executions: tuple[Execution, ...] = ("tokens", "prefix")
    found = [
        Form(execution, like, (place < count).expand(len(keep), -1), execution)
        for execution in executions
        for count in counts
    ]
    own, plan = model.prompts.keep, model.blueprint
    assert plan is not None
    if not bool(own.all()) or own.shape[1] < plan.num_prompts:
        found.append(Form("condensed", model, own.clone(), "prefix"))
    return found


def measure_costs(
    measured: Sequence[Form], batches: Sequence[int] = (1, 8), repeats: int = 20
) -> list[Measured]:
    """Count, time and weigh each form. The models are left as they were.

    Times are of evaluation mode, the sides in turn after two rounds to warm up. Memory is of
    training mode, in the precision of the model and without gradient checkpointing: what a further
    image adds.

    Args:
        measured: as of :func:`forms`.
        batches: images of a forward pass.
        repeats: rounds for each size of batch.

    Raises:
        UsageError: for numbers below 1, and frozen prompts.
    """
    for what, value in ("batch", min(batches)), ("repeats", repeats):
        if value < 1:
            raise UsageError(f"{what} {value}; give at least 1")
    models = {id(form.model): form.model for form in measured}
    for model in models.values():
        model.prompts.require_thawed()
    times = {size: _times(measured, size, repeats) for size in batches}
    return [
        Measured(
            form.name,
            form.prompts,
            int(form.keep.sum()),
            cost.macs,
            cost.shared,
            {size: spread(taken[i]) for size, taken in times.items()},
            *_memory(form),
        )
        for i, form in enumerate(measured)
        for cost in [condensed_cost(form.model, list(form.keep), form.execution)]
    ]


def _times(measured: Sequence[Form], size: int, repeats: int) -> list[list[float]]:
    def side(form: Form) -> Side:
        images = _images(form.model, size)
        # Not as compiled: that would be done anew for each mask.
        return Side(lambda: form.model.forward(images), lambda: _put_on(form))

    models = list({id(form.model): form.model for form in measured}.values())
    device = models[0].prompts.device
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluating(model))
        return alternate([side(form) for form in measured], repeats, device)


def _put_on(form: Form) -> None:
    form.model.prompts.apply_mask(list(form.keep))
    if form.model.execution != form.execution:
        form.model.execution = form.execution


def _memory(form: Form) -> tuple[float, float]:
    """Return the bytes that a further image adds, and those held once for a batch."""
    few, more = 2, 4
    trained = [part for part in form.model.prompts.parameters() if part.requires_grad]

    def held(size: int) -> int:
        images = _images(form.model, size)
        labels = torch.zeros(size, dtype=torch.int64, device=images.device)
        return held_for_backward(form.model, images, labels)

    with evaluating(form.model, gradients=True):
        _put_on(form)
        form.model.train()
        if not form.keep.any():  # the backbone alone: what is not there is not trained
            form.model.prompts.requires_grad_(False)
        try:
            smaller, larger = held(few), held(more)
        finally:
            for part in trained:
                part.requires_grad_(True)
    image = (larger - smaller) / (more - few)
    return image, smaller - few * image


def _images(model: PromptedTransformer, size: int) -> Tensor:
    bank = model.prompts
    return torch.zeros(size, 3, *model.patch_embed.img_size, device=bank.device, dtype=bank.dtype)

"""Importance of each prompt, from one pass over data.

The default gate sits in the attention, not on the token. Let m multiply the unnormalised attention
weight of a prompt, exp(s)·m, in every head and query: m = 1 is the model, m = 0 is exact removal of
its key and value, and |∂L/∂m| at 1 is the first-order effect of removing it. As the gate enters as
a bias log m on a column of the attention scores, ∂L/∂m at 1 is the gradient of that bias, and all
prompts are scored in one backward pass. The textbook gate on the token, p·∂L/∂p, is degenerate in
VPT-Deep: there the prompt reaches the network only through a LayerNorm, which does not change when
p is scaled, so by Euler's theorem p·∂L/∂p ≈ 0. It is kept for comparison. Prompt Condensation (Kim
et al., arXiv 2305.17223) asks for a gradient-based score; the gate is this project's choice.

Axes: b batch, l layers, p prompts, d width, r query rows, k keys.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pcvpt.condensation.microbatches import PiecewiseSum
from pcvpt.condensation.split_half import HalvedSum
from pcvpt.errors import UsageError
from pcvpt.models.attention_hooks import Attending, watched
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.models.transformer import PromptedTransformer

Method = Literal[
    "gate",
    "gate_batch",
    "gate_sample",
    "gate_squared",
    "token",
    "token_batch",
    "gradient_norm",
    "magnitude",
    "attention",
    "random",
    "leave_one_out",
]
DEFAULT_SCORE: Method = "gate_sample"
"""The score that chose best on real images (`experiments/real`)."""

Batches = Iterable[Sequence[Tensor]]


def score_prompts(
    model: PromptedTransformer,
    batches: Batches,
    method: Method = DEFAULT_SCORE,
    *,
    seed: int = 0,
    all_reduce: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Score the importance of every prompt of ``model``: the higher, the more it matters.

    Computed in evaluation mode in the model's own precision, without autocast, and summed in
    float64. The model, its gradients, its mode, and the random state are left as they were. A batch
    that does not fit into memory is taken in smaller pieces, with a warning; the scores are those
    of the whole batch.

    Args:
        model: a model with prompts.
        batches: ``(images (b, 3, h, w), labels (b,))``, in any number of batches.
        method:
            "gate": |mean over images of ∂L/∂m|, m the attention gate. "gate_batch",
            "gate_sample": the mean of that gradient's absolute value for each batch or image.
            "gate_squared": the mean of its square for each image.
            "token": |mean of p·∂L/∂p|; "token_batch": the same, absolute for each batch; see the
            warning above. "gradient_norm": ‖∂L/∂p‖·‖p‖. "magnitude": ‖p‖. "attention": attention
            weight received, mean over images, heads and those queries that the model's execution
            computes. "random": uniform, from ``seed``.
            "leave_one_out": increase of the mean loss when the prompt is removed, exactly, at the
            price of one forward pass for each prompt.
        seed: of "random".
        all_reduce: sums a tensor over processes, when each has its own share of the data.

    Returns:
        For each layer one float64 tensor ``(p,)``; -inf for prompts condensed away before.

    Raises:
        UsageError: for an unknown method, a model without prompts, no data, or too little memory
            for one image.
    """
    return score_with_halves(model, batches, method, seed=seed, all_reduce=all_reduce).scores


class Scores(NamedTuple):
    """Scores of all prompts, and how they come out on either half of the data.

    Attributes:
        scores: as :func:`score_prompts` returns them.
        halves: ``(l, p)`` of the even and of the odd batches; None for a method that looks at no
            data, or when there is but one batch.
    """

    scores: list[Tensor]
    halves: tuple[Tensor, Tensor] | None


def score_with_halves(
    model: PromptedTransformer,
    batches: Batches,
    method: Method = DEFAULT_SCORE,
    *,
    seed: int = 0,
    all_reduce: Callable[[Tensor], Tensor] | None = None,
) -> Scores:
    """Score as :func:`score_prompts` does, and in the same pass by either half of the batches.

    On several processes, a half is every other batch of each.
    """
    if method not in get_args(Method):
        raise UsageError(f"score method {method!r}; choose one of {', '.join(get_args(Method))}")
    bank = model.prompts
    if bank.keep.numel() == 0:
        raise UsageError("the model has no prompts to score (mode 'linear')")
    if bank.frozen and method in ("token", "token_batch", "gradient_norm"):
        bank.require_thawed()
    halves: tuple[Tensor, Tensor] | None = None
    if method == "magnitude":
        scores = bank.stack().detach().double().norm(dim=2)
    elif method == "random":
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(bank.keep.shape, generator=generator, dtype=torch.float64)
    else:
        piece, of_batch, finish = _METHODS[method]
        # Without autocast: scores are those of the model's own precision.
        with (
            evaluating(model, gradients=True),
            torch.autocast(bank.device.type, enabled=False),
        ):
            batch_sum = PiecewiseSum(lambda images, labels: piece(model, images, labels))
            total = _sum(model, batches, lambda *batch: of_batch(batch_sum(*batch)))
            mean, of_halves = total.means(all_reduce)
            scores = finish(model, mean)
            if of_halves is not None:
                halves = finish(model, of_halves[0]), finish(model, of_halves[1])
    gone = ~bank.keep

    def without_gone(values: Tensor) -> Tensor:
        return values.to(gone.device).masked_fill(gone, float("-inf"))

    return Scores(
        list(without_gone(scores).unbind(0)),
        None if halves is None else (without_gone(halves[0]), without_gone(halves[1])),
    )


def _sum(
    model: PromptedTransformer, batches: Batches, contribution: Callable[[Tensor, Tensor], Tensor]
) -> HalvedSum:
    """Sum ``contribution`` over the batches."""
    bank = model.prompts
    total = HalvedSum(bank.device)
    for images, labels, *_ in batches:
        if not images.is_floating_point():
            raise UsageError(
                f"images are {images.dtype}; normalise them first, as on_after_batch_transfer of "
                "the pcvpt.data tasks does"
            )
        # A clone, because tensors made in inference mode can't be saved for backward.
        images = images.to(bank.device, bank.dtype, copy=images.is_inference())
        labels = labels.to(bank.device, copy=labels.is_inference())
        total.add(contribution(images, labels), len(labels))
    if total.is_empty:
        raise UsageError("no images to score the prompts with")
    return total


def _loss(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    # Not as compiled: a graph knows neither gate nor hook, and would be compiled for this alone.
    return F.cross_entropy(model.forward(images).float(), labels, reduction="sum")


def _gate_gradient(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    """Return ∂L/∂m at m = 1 for each image and prompt ``(b, l, p)``."""
    gate = torch.zeros(len(images), *model.prompts.keep.shape, device=images.device)
    gate.requires_grad_()
    with _no_parameter_trained(model), model.prompts.gated(gate):
        # Here, as under gradient checkpointing the blocks are computed once more.
        (gradient,) = torch.autograd.grad(_loss(model, images, labels), gate)
    return gradient


@contextmanager
def _no_parameter_trained(model: PromptedTransformer) -> Iterator[None]:
    """Build no graph for gradients of parameters, so that backward need not compute any."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _token_gradient(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed loss in the prompts ``(l, p, d)``."""
    bank = model.prompts
    return bank.stack(torch.autograd.grad(_loss(model, images, labels), list(bank.parameters())))


def _token_gate(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    gradient = _token_gradient(model, images, labels).double()
    return (model.prompts.stack().detach().double() * gradient).sum(2)


def _attention_received(model: PromptedTransformer, images: Tensor, _: Tensor) -> Tensor:
    """Return the attention weight of each prompt ``(l, p)``, summed over images."""
    bank = model.prompts
    received = torch.zeros(bank.keep.shape, dtype=torch.float64, device=images.device)
    blocks_per_layer = len(model.blocks) / len(bank.keep)

    def record(_: int, attention: Attending, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert attention.source is not None
        layer = attention.source.layer
        count = bank.count(layer)
        if count:
            weights = attention.attention_map(*args, **kwargs)[..., -count:]
            share = weights.double().mean(dim=(1, 2)).sum(0) / blocks_per_layer
            received[layer, bank.keep[layer]] += share

    with watched(model, record), torch.no_grad():
        model.forward(images)
    return received


@torch.no_grad()
def _removal_loss(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    """Return by how much the summed loss grows without each prompt ``(l, p)``."""
    bank = model.prompts
    base = _loss(model, images, labels).double()
    growth = torch.zeros(bank.keep.shape, dtype=torch.float64, device=images.device)
    for layer, prompt in bank.keep.nonzero().tolist():
        gate = torch.zeros(1, *bank.keep.shape, device=images.device)
        gate[0, layer, prompt] = float("-inf")
        with bank.gated(gate):
            growth[layer, prompt] = _loss(model, images, labels).double() - base
    return growth


def _same(total: Tensor) -> Tensor:
    return total


def _unchanged(_: PromptedTransformer, mean: Tensor) -> Tensor:
    return mean


def _absolute(_: PromptedTransformer, mean: Tensor) -> Tensor:
    return mean.abs()


def _norm_product(model: PromptedTransformer, mean: Tensor) -> Tensor:
    product: Tensor = mean.norm(dim=2) * model.prompts.stack().detach().double().norm(dim=2)
    return product


class _Steps(NamedTuple):
    """What a method sums over the images of a piece, makes of a batch's sum, and of the mean."""

    piece: Callable[[PromptedTransformer, Tensor, Tensor], Tensor]
    of_batch: Callable[[Tensor], Tensor] = _same
    finish: Callable[[PromptedTransformer, Tensor], Tensor] = _unchanged


def _gate(*piece: Any) -> Tensor:
    return _gate_gradient(*piece).double().sum(0)


_METHODS = {
    "gate": _Steps(_gate, finish=_absolute),
    "gate_batch": _Steps(_gate, of_batch=torch.abs),
    "gate_sample": _Steps(lambda *piece: _gate_gradient(*piece).abs().double().sum(0)),
    "gate_squared": _Steps(lambda *piece: _gate_gradient(*piece).double().square().sum(0)),
    "token": _Steps(_token_gate, finish=_absolute),
    "token_batch": _Steps(_token_gate, of_batch=torch.abs),
    "gradient_norm": _Steps(_token_gradient, finish=_norm_product),
    "attention": _Steps(_attention_received),
    "leave_one_out": _Steps(_removal_loss),
}

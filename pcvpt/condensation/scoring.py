"""Importance of each prompt, from one pass over data.

The default gate sits in the attention, not on the token. Let m multiply the unnormalised attention
weight of a prompt, exp(s)·m, in every head and query: m = 1 is the model, m = 0 is exact removal of
its key and value, and |∂L/∂m| at 1 is the first-order effect of removing it. As the gate enters as
a bias log m on a column of the attention scores, ∂L/∂m at 1 is the gradient of that bias, and all
prompts are scored in one backward pass. The textbook gate on the token, p·∂L/∂p, is degenerate in
VPT-Deep: there the prompt reaches the network only through a LayerNorm, which does not change when
p is scaled, so by Euler's theorem p·∂L/∂p ≈ 0. It is kept for comparison. Prompt Condensation (Kim
et al., arXiv 2305.17223) asks for a gradient-based score; the gate is this project's choice.

Axes: b images, l layers, p prompts, d width.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from scipy.stats import ConstantInputWarning, spearmanr
from torch import Tensor

from pcvpt.condensation.microbatches import PiecewiseSum
from pcvpt.errors import UsageError
from pcvpt.models.attention_hooks import AnyPromptedAttention, attention_pre_hooks
from pcvpt.models.evaluation_mode import evaluating, prepared_images
from pcvpt.models.temporary import changed
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
"""The score with the best accuracy after condensing, on real images (`experiments/real`)."""

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

    Scores are computed in evaluation mode in the model's own precision, without autocast, and
    summed in float64. The model, its gradients, its mode, and the random state stay unchanged. A
    batch that does not fit into memory is divided into smaller pieces, with a warning; the scores
    are those of the whole batch.

    Args:
        model: Model with prompts.
        batches: Pairs of images ``(b, 3, h, w)`` and labels ``(b,)``, in any number of batches.
        method: Method of scoring. Default: "gate_sample".

            - "gate": |mean over images of ∂L/∂m|, where m is the attention gate.
            - "gate_batch", "gate_sample": mean of that gradient's absolute value for each batch,
              for each image.
            - "gate_squared": mean of its square for each image.
            - "token": |mean of p·∂L/∂p|. "token_batch": the same, absolute for each batch. Both are
              degenerate in VPT-Deep.
            - "gradient_norm": ‖∂L/∂p‖·‖p‖.
            - "magnitude": ‖p‖.
            - "attention": attention weight received, mean over images, heads and those queries that
              the model's execution computes.
            - "random": uniform random numbers.
            - "leave_one_out": exact increase of the mean loss when the prompt is removed. It takes
              one forward pass for each prompt. A backbone in half precision rounds the losses by
              more than most prompts change them, which gives a warning.
        seed: Seed of the method "random". Default: 0.
        all_reduce: Function that sums a tensor over processes, each of which has its own share of
            the data. Default: there is one process.

    Returns:
        For each layer one float64 tensor ``(p,)``; -inf for prompts that are masked already.

    Raises:
        UsageError: If the method is unknown, the model has no prompts, there are no data, or one
            image does not fit into memory.
    """
    return score_with_halves(model, batches, method, seed=seed, all_reduce=all_reduce)[0]


def score_with_halves(
    model: PromptedTransformer,
    batches: Batches,
    method: Method = DEFAULT_SCORE,
    *,
    seed: int = 0,
    all_reduce: Callable[[Tensor], Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Score as :func:`score_prompts` does, and in the same pass by either half of the batches.

    Returns:
        What :func:`score_prompts` returns, and the scores ``(l, p)`` by the even and by the odd
        batches of each process; an empty list for a method that reads no data, or for one batch.
    """
    if method not in get_args(Method):
        raise UsageError(f"score method {method!r}; choose one of {', '.join(get_args(Method))}")
    bank = model.prompts
    if bank.keep.numel() == 0:
        raise UsageError("the model has no prompts to score (mode 'linear')")
    if bank.frozen and method in ("token", "token_batch", "gradient_norm"):
        bank.require_thawed()
    found: list[Tensor]
    if method == "magnitude":
        found = [_norms(model)]
    elif method == "random":
        generator = torch.Generator().manual_seed(seed)
        found = [torch.rand(bank.keep.shape, generator=generator, dtype=torch.float64)]
    else:
        precision = next(model.patch_embed.parameters()).dtype
        if method == "leave_one_out" and precision.itemsize < 4:
            warnings.warn(
                f"score leave_one_out: losses are rounded to {precision}, often by more than a "
                "prompt changes them; --trainer.precision 32-true does not",
                stacklevel=3,
            )
        found = _scores_from_data(model, batches, _FROM_DATA[method], all_reduce)
    masked = ~bank.keep
    scores, *halves = (
        values.to(masked.device).masked_fill(masked, float("-inf")) for values in found
    )
    return list(scores.unbind(0)), halves


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation of two tensors of one shape; NaN if one is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(*(x.flatten().cpu().numpy() for x in (first, second))).statistic)


class _Score(NamedTuple):
    """How a score is computed: a sum over images, functions of a batch's sum and of the mean."""

    of_images: Callable[[PromptedTransformer, Tensor, Tensor], Tensor]
    of_batch: Callable[[Tensor], Tensor] = lambda total: total
    of_mean: Callable[[PromptedTransformer, Tensor], Tensor] = lambda _, mean: mean


def _scores_from_data(
    model: PromptedTransformer,
    batches: Batches,
    score: _Score,
    all_reduce: Callable[[Tensor], Tensor] | None,
) -> list[Tensor]:
    """Return the scores ``(l, p)`` of all batches, and, if there are any, those of both halves."""
    device = model.prompts.device
    sums: list[Tensor] = []  # over all batches, in their order, over even ones, and over odd ones
    # Without autocast: scores are those of the model's own precision.
    with evaluating(model, gradients=True), torch.autocast(device.type, enabled=False):
        counts = torch.zeros(3, dtype=torch.float64, device=device)
        sum_of = PiecewiseSum(lambda images, labels: score.of_images(model, images, labels))
        for number, (images, labels, *_) in enumerate(batches):
            classes = labels.to(device, copy=labels.is_inference())
            part = score.of_batch(sum_of(prepared_images(model, images), classes))
            sums = sums or [torch.zeros_like(part)] * 3
            for which in (0, 1 + number % 2):
                sums[which] = sums[which] + part
                counts[which] += len(labels)
        if not sums:
            raise UsageError("no images to score the prompts with")
        if all_reduce is not None:
            sums, counts = [all_reduce(value) for value in sums], all_reduce(counts)
        sums = sums if bool(counts.all()) else sums[:1]
        means = [value / count for value, count in zip(sums, counts, strict=False)]
        return [score.of_mean(model, mean) for mean in means]


def _loss(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    # Not as compiled: a compiled graph knows neither gate nor hook.
    return F.cross_entropy(model.forward(images).float(), labels, reduction="sum")


def _gate_gradient(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    """Return ∂L/∂m at m = 1 for each image and prompt ``(b, l, p)``, in float64."""
    shape = len(images), *model.prompts.keep.shape
    gate = torch.zeros(shape, dtype=torch.float32, device=images.device, requires_grad=True)
    # Within the gate, because gradient checkpointing computes the blocks once more.
    with changed(model.parameters(), "requires_grad", False), model.prompts.gated(gate):
        (gradient,) = torch.autograd.grad(_loss(model, images, labels), gate)
    return gradient.double()


def _token_gradient(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed loss in the prompts ``(l, p, d)``."""
    bank = model.prompts
    return bank.stack(torch.autograd.grad(_loss(model, images, labels), list(bank.parameters())))


def _token_gate(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    """Return p·∂L/∂p of the summed loss for each prompt ``(l, p)``."""
    gradient = _token_gradient(model, images, labels).double()
    return (model.prompts.stack().detach().double() * gradient).sum(2)


def _attention_received(model: PromptedTransformer, images: Tensor, _: Tensor) -> Tensor:
    """Return the attention weight of each prompt ``(l, p)``, summed over images."""
    bank = model.prompts
    received = torch.zeros(bank.keep.shape, dtype=torch.float64, device=images.device)
    blocks_per_layer = len(model.blocks) / len(bank.keep)

    def record(
        _: int, attention: AnyPromptedAttention, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        layer = attention.source.layer
        count = bank.count(layer)
        if count:
            weights = attention.attention_map(*args, **kwargs)[..., -count:]
            share = weights.double().mean(dim=(1, 2)).sum(0) / blocks_per_layer
            received[layer, bank.keep[layer]] += share

    with attention_pre_hooks(model, record), torch.no_grad():
        model.forward(images)
    return received


@torch.no_grad()
def _removal_loss(model: PromptedTransformer, images: Tensor, labels: Tensor) -> Tensor:
    """Return the increase of the summed loss without each prompt ``(l, p)``."""
    bank = model.prompts
    base = _loss(model, images, labels).double()
    growth = torch.zeros(bank.keep.shape, dtype=torch.float64, device=images.device)
    for layer, prompt in bank.keep.nonzero().tolist():
        gate = torch.zeros(1, *bank.keep.shape, dtype=torch.float32, device=images.device)
        gate[0, layer, prompt] = float("-inf")
        with bank.gated(gate):
            growth[layer, prompt] = _loss(model, images, labels).double() - base
    return growth


def _norms(model: PromptedTransformer) -> Tensor:
    norms: Tensor = model.prompts.stack().detach().double().norm(dim=2)
    return norms


_FROM_DATA = {
    "gate": _Score(
        lambda *piece: _gate_gradient(*piece).sum(0), of_mean=lambda _, mean: mean.abs()
    ),
    "gate_batch": _Score(lambda *piece: _gate_gradient(*piece).sum(0), of_batch=torch.abs),
    "gate_sample": _Score(lambda *piece: _gate_gradient(*piece).abs().sum(0)),
    "gate_squared": _Score(lambda *piece: _gate_gradient(*piece).square().sum(0)),
    "token": _Score(_token_gate, of_mean=lambda _, mean: mean.abs()),
    "token_batch": _Score(_token_gate, of_batch=torch.abs),
    "gradient_norm": _Score(
        _token_gradient, of_mean=lambda model, mean: mean.norm(dim=2) * _norms(model)
    ),
    "attention": _Score(_attention_received),
    "leave_one_out": _Score(_removal_loss),
}

"""What the queries of a model see of its prompts: the statistics that merging needs.

A query sees its prompts only through their attention weights and values. How much a change of its
output y changes the predictions is measured by the gradient g of the log-likelihood of a label that
is drawn from the predictions themselves: the mean of (g·Δy)² over such labels is a Fisher
information, and half of it is the Kullback-Leibler divergence of the predictions to second order.
So no labels of the images are needed.

Axes: b images, w windows of an image, h heads, r query rows, p prompts, k keys, c head width.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcvpt.condensation.scoring import Batches
from pcvpt.errors import UsageError
from pcvpt.models.attention_hooks import AnyPromptedAttention, attention_pre_hooks, attentions_of
from pcvpt.models.evaluation_mode import evaluating, prepared_images
from pcvpt.models.temporary import without_checkpointing
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.window_attention import PromptedWindowAttention

_SAMPLE = 2  # query rows of each image; more gave no better merges (LOG.md)
_PIECE = 32  # images of one pass, which holds the activations of all blocks


class Rows(NamedTuple):
    """A sample of the query rows of one block, in float64.

    Attributes:
        log_share: Logarithm of the attention weight of each kept prompt ``(h, r, p)``.
        effect: g·(v - y) of each kept prompt ``(h, r, p)``: what moving attention to it does to the
            log-likelihood.
        per_image: Number of query rows of an image, from which the sample was drawn.
    """

    log_share: Tensor
    effect: Tensor
    per_image: int


class _Passing(NamedTuple):
    """A sample of one block in a forward pass, before the gradient is known."""

    places: Tensor  # chosen rows (b, r), counted over the windows of an image
    log_share: Tensor  # logarithm of attention weights (b, r, h, p)
    values: Tensor  # of the prompts (b, r, h, p, c), in the window of each row
    mixed: Tensor  # output (b, r, h, c)
    windows: int  # of an image
    rows: int  # of a window


def attention_rows(model: PromptedTransformer, batches: Batches, seed: int = 0) -> list[Rows]:
    """Sample query rows of each block in one forward and one backward pass; ``model`` stays as is.

    The first element of each batch are images ``(b, 3, h, w)``. ``seed`` chooses rows, and labels
    that are drawn, however the images are divided into batches. A UsageError is raised if there are
    no images, they are not floats, or the model's outputs are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    passes: list[list[tuple[Tensor, int]]] = []
    no_autocast = torch.autocast(model.prompts.device.type, enabled=False)
    with evaluating(model, gradients=True), no_autocast, without_checkpointing(model):
        for batch in batches:
            for images in prepared_images(model, batch[0]).split(_PIECE):
                seeds = torch.randint(2**62, (len(images),), generator=generator).tolist()
                draws = [torch.Generator().manual_seed(own) for own in seeds]
                passes.append(_one_pass(model, images, draws))
    if not passes:
        raise UsageError("no images to merge the prompts by")
    found = []
    for of_block in zip(*passes, strict=True):
        both = torch.cat([part for part, _ in of_block]).cpu().permute(1, 2, 0, 3)
        found.append(Rows(both[0], both[1], of_block[0][1]))
    return found


def _one_pass(
    model: PromptedTransformer, images: Tensor, draws: Sequence[torch.Generator]
) -> list[tuple[Tensor, int]]:
    """Return log share and effect ``(b·r, 2, h, p)`` of each block, and the rows of an image.

    Each image has its own generator in ``draws``.
    """
    passing: list[_Passing] = []
    record = attention_pre_hooks(model, lambda _, *own: passing.append(_sample(draws, *own)))
    with record, _changes_of_outputs(model) as changes:
        logits = model.forward(images).float()
        if not logits.isfinite().all():
            raise UsageError("the model's outputs are not finite; did the loss diverge?")
        own = zip(logits.detach().softmax(1).cpu(), draws, strict=True)
        drawn = torch.cat([torch.multinomial(of, 1, generator=draw) for of, draw in own])
        log_likelihood = -F.cross_entropy(logits, drawn.to(logits.device), reduction="sum")
        gradients = torch.autograd.grad(log_likelihood, changes)
    found = []
    for part, gradient in zip(passing, gradients, strict=True):
        of_rows = gradient.unflatten(0, (-1, 1)) if gradient.ndim == 3 else gradient
        of_rows = of_rows[:, :, : part.rows].flatten(1, 2)
        at_rows = of_rows.take_along_dim(part.places[..., None], dim=1)
        at_heads = at_rows.double().unflatten(2, (part.mixed.shape[2], -1))  # b r h c
        of_values = (part.values.double() @ at_heads[..., None]).squeeze(-1)
        effect = of_values - (at_heads * part.mixed.double()).sum(-1, keepdim=True)
        both = torch.stack([part.log_share.double(), effect], dim=2)  # b r 2 h p
        found.append((both.flatten(0, 1), part.windows * part.rows))
    return found


@torch.no_grad()
def _sample(
    draws: Sequence[torch.Generator],
    attention: AnyPromptedAttention,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> _Passing:
    """Choose rows of each image's own tokens, and compute their attention."""
    count = attention.source.count()
    joint = attention.project(*args, **kwargs).joined()
    images, windows = joint.q.shape[:2]
    rows = min(joint.q.shape[3], joint.k.shape[3] - count)  # the rows behind are prompts
    total = windows * rows
    chosen = [torch.randperm(total, generator=draw)[:_SAMPLE] for draw in draws]
    places = torch.stack(chosen).to(joint.q.device)

    def at(x: Tensor) -> Tensor:  # b w h R ... -> b r h ...
        tokens = x[:, :, :, :rows].transpose(2, 3).flatten(1, 2)
        return tokens[torch.arange(images, device=x.device)[:, None], places]

    prompts = joint.v[..., joint.v.shape[3] - count :, :]  # b w h p c
    own = prompts[torch.arange(images, device=places.device)[:, None], places // rows]
    log_weights = at(joint.scores()).double().log_softmax(-1)
    log_share = log_weights[..., log_weights.shape[-1] - count :]
    return _Passing(places, log_share, own, at(joint.attend()), windows, rows)


@contextmanager
def _changes_of_outputs(model: PromptedTransformer) -> Iterator[list[Tensor]]:
    """Add a zero to the mixed values of each block; its gradient is that of the mixed values."""
    changes: list[Tensor] = []

    def add(axes: int, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mixed = args[0]
        if mixed.ndim != axes:  # of the prompts of a Swin, which flow on
            return args
        changes.append(torch.zeros_like(mixed, requires_grad=True))
        return (mixed + changes[-1], *args[1:])

    with ExitStack() as handles:
        for attention in attentions_of(model):
            axes = 4 if isinstance(attention, PromptedWindowAttention) else 3
            first = attention._modules.get("norm") or attention.proj
            handles.enter_context(first.register_forward_pre_hook(partial(add, axes)))
        yield changes

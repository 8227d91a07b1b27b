"""What one forward pass of a model in training shows, without a trace left in it.

Axes: b batch, l layers of prompts, p prompts of a layer, d width, h heads, r query rows,
k keys of the attention, n tokens of an image.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcvpt.models.attention import PromptedAttention
from pcvpt.models.attention_hooks import Attending, attentions_of, watched
from pcvpt.models.transformer import PromptedTransformer


class Glance(NamedTuple):
    """What a model makes of some images.

    Attributes:
        features: ``(b, d)``, pooled, as they enter the head.
        logits: ``(b, classes)``.
    """

    features: Tensor
    logits: Tensor


@contextmanager
def undisturbed(model: PromptedTransformer) -> Iterator[None]:
    """Hold evaluation mode without gradients; put mode and random state back at the end."""
    training, device = model.training, model.prompts.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def features_and_logits(model: PromptedTransformer, images: Tensor) -> Glance:
    """Return what ``model`` makes of ``images`` ``(b, 3, h, w)``, in its present mode."""
    entered: list[Tensor] = []
    head: Any = model.get_classifier()  # type: ignore[operator]
    hook = head.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    try:
        logits = model.forward(images)  # not as compiled: a graph knows no hook
    finally:
        hook.remove()
    return Glance(entered[0], logits)


def attention_to_prompts(model: PromptedTransformer, images: Tensor) -> Tensor:
    """Return how much of its attention each block's pooled query gives to each prompt.

    The query is the class token where that is what is pooled, and else each patch, on average over
    patches; those of Swin's windows over the windows, which may be padded at the image's edge. Mean
    over images and heads. In Shallow, each block attends to the same prompts.

    Args:
        model: with prompts; it is looked at in its present mode.
        images: ``(b, 3, h, w)``, normalised, on the model's device.

    Returns:
        ``(blocks, p)`` on the CPU, in [0, 1]; NaN for prompts that are condensed away.
    """
    bank = model.prompts
    blocks = len(attentions_of(model))
    found = torch.full((blocks, bank.keep.shape[1]), float("nan"), device=images.device)
    rows, context = _query_rows(model)

    def record(
        block: int, attention: Attending, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        source = attention.source
        if source is None or not source.count():
            return
        count, tokens = source.count(), args[0].shape[-2]
        if isinstance(attention, PromptedAttention) and not attention.norm_prompts:
            tokens -= count  # prompts are rows of the sequence
        weights = attention.attention_map(*args, **{**kwargs, **context})  # b h r k
        of_prompts = weights[:, :, rows.start : min(rows.stop, tokens), -count:]
        found[block, bank.keep[source.layer]] = of_prompts.float().mean((0, 1, 2))

    with watched(model, record), torch.no_grad():
        model.forward(images)
    return found.cpu()


def _query_rows(model: Any) -> tuple[range, dict[str, Any]]:
    """Return which tokens are pooled, and how an attention is asked for no more than those."""
    every = torch.iinfo(torch.int64).max
    if not any(isinstance(part, PromptedAttention) for part in model.modules()):
        return range(every), {}  # Swin has only patches
    if model._pooled_rows() == 1:
        return range(1), {"rows": 1}
    if getattr(model, "attn_pool", None) is not None:
        return range(every), {}
    return range(model.num_prefix_tokens, every), {}

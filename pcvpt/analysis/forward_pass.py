"""What one forward pass shows of a model: features, logits, and the attention to its prompts.

Axes: b images, l layers of prompts, p prompts of a layer, d width, h heads, r query rows,
k keys of the attention, n tokens of an image.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcvpt.models.attention import PromptedAttention
from pcvpt.models.attention_hooks import AnyPromptedAttention, attention_pre_hooks, attentions_of
from pcvpt.models.transformer import PromptedTransformer


class Outputs(NamedTuple):
    """Pooled features ``(b, d)``, as they enter the head, and logits ``(b, classes)``."""

    features: Tensor
    logits: Tensor


def features_and_logits(model: PromptedTransformer, images: Tensor) -> Outputs:
    """Return features and logits of ``images`` ``(b, 3, h, w)``, in the model's present mode."""
    entered: list[Tensor] = []
    head: Any = model.get_classifier()  # type: ignore[operator]
    hook = head.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    try:
        logits = model.forward(images)  # not as compiled: a compiled graph does not call hooks
    finally:
        hook.remove()
    return Outputs(entered[0], logits)


def attention_to_prompts(model: PromptedTransformer, images: Tensor) -> Tensor:
    """Return the attention that each prompt receives from the pooled tokens of each block.

    The pooled tokens are the class token where the head reads it, and otherwise the patches, of
    which the mean is taken. In Swin it is the mean over windows, which may be padded at the image's
    edge. The result is the mean over images and heads. In Shallow, each block attends to the same
    prompts. The model runs in its present mode, on images ``(b, 3, h, w)`` on its device. The
    attention is ``(blocks, p)`` on the CPU, in [0, 1]; NaN for masked prompts.
    """
    bank = model.prompts
    shape = len(attentions_of(model)), bank.keep.shape[1]
    found = torch.full(shape, float("nan"), dtype=torch.float32, device=images.device)
    pooled = pooled_tokens(model)
    # Only the row of the class token is computed where no other is read.
    context = {"rows": 1} if reads_class_token(model) else {}

    def record(
        block: int, attention: AnyPromptedAttention, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        source = attention.source
        if source is None or not source.count():
            return
        count, tokens = source.count(), args[0].shape[-2]
        if isinstance(attention, PromptedAttention) and not attention.norm_prompts:
            tokens -= count  # prompts are rows of the sequence
        weights = attention.attention_map(*args, **{**kwargs, **context})  # b h r k
        of_prompts = weights[:, :, :tokens][:, :, pooled, -count:]
        found[block, bank.keep[source.layer]] = of_prompts.float().mean((0, 1, 2))

    with attention_pre_hooks(model, record), torch.no_grad():
        model.forward(images)
    return found.cpu()


def reads_class_token(model: PromptedTransformer) -> bool:
    """Return whether the head reads the first token alone, and not a mean over tokens."""
    return pooled_tokens(model) == slice(0, 1)


def pooled_tokens(model: PromptedTransformer) -> slice:
    """Return which tokens the head reads: the class token, the patches, or all of them."""
    if getattr(model, "attn_pool", None) is not None:
        return slice(0, None)
    if getattr(model, "global_pool", "avg") == "token":
        return slice(0, 1)
    return slice(getattr(model, "num_prefix_tokens", 0), None)  # Swin has only patches

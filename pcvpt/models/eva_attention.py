"""The two attention modules of timm's ``Eva``, with prompts: rotary positions, partial biases.

Axes: b batch, n tokens, d width, h heads, c head width.
"""

from timm.layers.attention import AttentionRope
from timm.models.eva import EvaAttention
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.attention import PromptedAttention, partial_bias


class _PromptedRotaryAttention(PromptedAttention):
    """Queries, keys and values from one joint projection, or from three of their own."""

    def _separate(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        return tuple(
            self._heads(getattr(self, name)(x))
            for name in ("q_proj", "k_proj", "v_proj")[first:last]
        )

    def _heads(self, x: Tensor) -> Tensor:
        width = round(self.scale**-2)
        heads: Tensor = x.unflatten(2, (-1, width)).transpose(1, 2)
        # Grouped-query attention, where several query heads share a key and a value.
        groups = self.num_heads // heads.shape[1]
        return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)


class PromptedEvaAttention(_PromptedRotaryAttention, EvaAttention):  # type: ignore[misc]
    """timm's ``EvaAttention`` with prompts: a query and a value bias, none of the key."""

    @override
    def _parts(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        qkv: nn.Linear | None = self.qkv
        if qkv is None:
            return self._separate(x, first, last)
        return self._joint(x, qkv.weight, partial_bias(self), first, last)


class PromptedAttentionRope(_PromptedRotaryAttention, AttentionRope):  # type: ignore[misc]
    """timm's ``AttentionRope`` with prompts."""

    @override
    def _parts(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        qkv: nn.Linear | None = self.qkv
        if qkv is None:
            return self._separate(x, first, last)
        return self._joint(x, qkv.weight, qkv.bias, first, last)

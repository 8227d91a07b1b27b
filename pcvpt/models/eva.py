"""timm's ``Eva`` with prompts: EVA, EVA-02, DINOv3, Perception Encoder and other rotary ViTs.

Patches are rotated by their position; class token, registers and prompts are not. Blocks scale
their branches by bare parameters ("gamma") instead of a LayerScale module.

Axes: b batch, n tokens, d width, h heads, c head width.
"""

from typing import Any, ClassVar

from timm.layers.attention import AttentionRope
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.attention import PromptedAttention
from pcvpt.models.prompt_keys_values import Parts
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.vit import PromptedBlock


class _PromptedRotaryAttention(PromptedAttention):
    """Queries, keys and values from one joint projection, or from three separate ones."""

    @override
    def project_parts(self, x: Tensor, first: int, last: int) -> Parts:
        if self.qkv is not None:
            return super().project_parts(x, first, last)
        names = ("q_proj", "k_proj", "v_proj")[first:last]
        return tuple(self._heads(getattr(self, name)(x)) for name in names)

    def _heads(self, x: Tensor) -> Tensor:
        width = round(self.scale**-2)
        heads: Tensor = x.unflatten(2, (-1, width)).transpose(1, 2)
        # Grouped-query attention, where several query heads share a key and a value.
        groups = self.num_heads // heads.shape[1]
        return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)


class PromptedEvaAttention(_PromptedRotaryAttention, EvaAttention):  # type: ignore[misc]
    """timm's ``EvaAttention`` with prompts."""


class PromptedAttentionRope(_PromptedRotaryAttention, AttentionRope):  # type: ignore[misc]
    """timm's ``AttentionRope`` with prompts."""


class GammaBlock(PromptedBlock):
    """Pre-norm block whose branches are scaled by bare parameters, each of which may be None."""

    gamma_1: Any
    gamma_2: Any

    @override
    def _leading(self, x: Tensor, rows: int, context: dict[str, Any]) -> Tensor:
        y: Tensor = self.attn(self.norm1(x), rows=rows, **context)
        y = x[:, :rows] + (y if self.gamma_1 is None else self.gamma_1 * y)
        z: Tensor = self.mlp(self.norm2(y))
        return y + (z if self.gamma_2 is None else self.gamma_2 * z)


class PromptedEvaBlock(GammaBlock, EvaBlock):  # type: ignore[misc]
    """timm's ``EvaBlock`` with prompts."""


class PromptedEvaBlockPostNorm(PromptedBlock, EvaBlockPostNorm):  # type: ignore[misc]
    """timm's ``EvaBlockPostNorm`` with prompts; the attention gets tokens without a norm."""

    @override
    def _leading(self, x: Tensor, rows: int, context: dict[str, Any]) -> Tensor:
        y: Tensor = x[:, :rows] + self.norm1(self.attn(x, rows=rows, **context))
        y = y + self.norm2(self.mlp(y))
        return y

    @override
    def prompt_norm(self) -> nn.Module:
        return nn.Identity()


class PromptedEva(PromptedTransformer, Eva):
    """timm's ``Eva`` whose blocks attend to prompts."""

    members: ClassVar[str] = "EVA, EVA-02, DINOv3, Perception Encoder, RoPE-ViT"
    parts: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {
        EvaBlock: PromptedEvaBlock,
        EvaBlockPostNorm: PromptedEvaBlockPostNorm,
        EvaAttention: PromptedEvaAttention,
        AttentionRope: PromptedAttentionRope,
    }

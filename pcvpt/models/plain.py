"""Plain vision transformers with prompts: timm's ViT, EVA and BEiT.

Axes: b batch, n tokens, d width.
"""

from typing import Any

import torch
from timm.layers.attention import AttentionRope
from timm.models import beit, eva, vision_transformer
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.attention import PromptedAttention, PromptedSelfAttention
from pcvpt.models.prompt_keys_values import Parts, PromptSource
from pcvpt.models.transformer import PromptedTransformer


class PromptedBlock(nn.Module):
    """A timm block that may insert prompt tokens, drop them, and compute only some rows.

    Attributes:
        inserts: Append the prompts to the sequence before the block.
        removes: Drop the rows of the prompts from the block's output.
        pooled_rows: Number of leading tokens that the pooling reads, in the last block. None in
            other blocks, or if all tokens are pooled.
        lean: Compute no rows that would be dropped.
    """

    inserts: bool
    removes: bool
    pooled_rows: int | None
    lean: bool
    # timm's, of types that depend on the family.
    attn: Any
    mlp: Any
    norm1: nn.Module
    norm2: Any

    @override
    def forward(self, x: Tensor, **context: Any) -> Tensor:
        source: PromptSource = self.attn.source
        if self.inserts:
            x = torch.cat([x, source.values(x).expand(x.shape[0], -1, -1)], dim=1)
        rows = x.shape[1]
        if self.removes:
            rows -= source.count()
        if not self.lean:
            whole: Tensor = super().forward(x, **context)
            return whole[:, :rows]
        return self._leading(x, rows if self.pooled_rows is None else self.pooled_rows, context)

    def _leading(self, x: Tensor, rows: int, context: dict[str, Any]) -> Tensor:
        """Return the block's output of the first ``rows`` tokens, computing no others."""
        y: Tensor = self.attn(self.norm1(x), rows=rows, **context)
        y = x[:, :rows] + self._scaled(y, "1")
        return y + self._scaled(self.mlp(self.norm2(y)), "2")

    def _scaled(self, y: Tensor, branch: str) -> Tensor:
        """Scale a branch by its LayerScale in a ViT, else by a bare parameter, if there is one."""
        layer_scale, gamma = (getattr(self, name + branch, None) for name in ("ls", "gamma_"))
        scaled: Tensor = y if layer_scale is None else layer_scale(y)
        return scaled if gamma is None else gamma * scaled

    def prompt_norm(self) -> nn.Module:
        """Return the norm that prompts pass before the attention, as tokens do."""
        return self.norm1


class PromptedViTBlock(PromptedBlock, vision_transformer.Block):  # type: ignore[misc]
    """timm's ``Block`` with prompts."""


class PromptedVisionTransformer(PromptedTransformer, vision_transformer.VisionTransformer):
    """timm's ``VisionTransformer`` whose blocks attend to prompts."""

    members = "ViT, DeiT, DeiT-3, AugReg, CLIP, SigLIP, DINOv2, MAE"
    parts = (PromptedViTBlock, PromptedSelfAttention)


class _PromptedRotaryAttention(PromptedAttention):
    """Queries, keys and values from one joint projection, or from three separate ones."""

    @override
    def project_parts(self, x: Tensor, first: int, last: int) -> Parts:
        if self.qkv is not None:
            return super().project_parts(x, first, last)
        parts = []
        for name in ("q_proj", "k_proj", "v_proj")[first:last]:
            part = getattr(self, name)(x).unflatten(2, (-1, round(self.scale**-2))).transpose(1, 2)
            # Grouped-query attention, where several query heads share a key and a value.
            groups = self.num_heads // part.shape[1]
            parts.append(part if groups == 1 else part.repeat_interleave(groups, dim=1))
        return tuple(parts)


class PromptedEvaAttention(_PromptedRotaryAttention, eva.EvaAttention):  # type: ignore[misc]
    """timm's ``EvaAttention`` with prompts."""


class PromptedAttentionRope(_PromptedRotaryAttention, AttentionRope):  # type: ignore[misc]
    """timm's ``AttentionRope`` with prompts."""


class PromptedEvaBlock(PromptedBlock, eva.EvaBlock):  # type: ignore[misc]
    """timm's ``EvaBlock`` with prompts."""


class PromptedEvaBlockPostNorm(PromptedBlock, eva.EvaBlockPostNorm):  # type: ignore[misc]
    """timm's ``EvaBlockPostNorm`` with prompts; the attention gets tokens without a norm."""

    @override
    def _leading(self, x: Tensor, rows: int, context: dict[str, Any]) -> Tensor:
        y: Tensor = x[:, :rows] + self.norm1(self.attn(x, rows=rows, **context))
        y = y + self.norm2(self.mlp(y))
        return y

    @override
    def prompt_norm(self) -> nn.Module:
        return nn.Identity()


class PromptedEva(PromptedTransformer, eva.Eva):
    """timm's ``Eva`` whose blocks attend to prompts.

    Patches are rotated by their position; class token, registers and prompts are not.
    """

    members = "EVA, EVA-02, DINOv3, Perception Encoder, RoPE-ViT"
    parts = (
        PromptedEvaBlock,
        PromptedEvaBlockPostNorm,
        PromptedEvaAttention,
        PromptedAttentionRope,
    )


class PromptedBeitAttention(PromptedAttention, beit.Attention):  # type: ignore[misc]
    """BEiT's ``Attention`` with prompts; the table of its bias is a block's own, or shared by all.

    Rows and columns of prompts have no bias.
    """

    @override
    def _position_bias(self, shared: Tensor | None) -> Tensor | None:
        if self.relative_position_bias_table is None:
            return shared
        own = self._get_rel_pos_bias()
        return own if shared is None else own + shared


class PromptedBeitBlock(PromptedBlock, beit.Block):  # type: ignore[misc]
    """BEiT's ``Block`` with prompts."""


class PromptedBeit(PromptedTransformer, beit.Beit):
    """timm's ``Beit`` whose blocks attend to prompts."""

    members = "BEiT, BEiT v2"
    parts = (PromptedBeitBlock, PromptedBeitAttention)

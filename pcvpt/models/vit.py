"""Plain vision transformers with prompts, and the blocks of all plain transformers.

A family defines how a block computes only some of its rows.

Axes: b batch, n tokens, d width.
"""

from typing import Any, ClassVar

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.attention import PromptedSelfAttention
from pcvpt.models.prompt_keys_values import PromptSource
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
        source: PromptSource | None = self.attn.source
        if self.inserts and source is not None:
            x = torch.cat([x, source.values(x).expand(x.shape[0], -1, -1)], dim=1)
        rows = x.shape[1]
        if self.removes and source is not None:
            rows -= source.count()
        if not self.lean:
            whole: Tensor = super().forward(x, **context)
            return whole[:, :rows]
        return self._leading(x, rows if self.pooled_rows is None else self.pooled_rows, context)

    def _leading(self, x: Tensor, rows: int, context: dict[str, Any]) -> Tensor:
        """Return the block's output of the first ``rows`` tokens, computing no others."""
        raise NotImplementedError

    def prompt_norm(self) -> nn.Module:
        """Return the norm that prompts pass before the attention, as tokens do."""
        return self.norm1


class PromptedViTBlock(PromptedBlock, Block):  # type: ignore[misc]
    """timm's ``Block`` with prompts."""

    @override
    def _leading(self, x: Tensor, rows: int, context: dict[str, Any]) -> Tensor:
        y: Tensor = x[:, :rows] + self.ls1(self.attn(self.norm1(x), rows=rows, **context))
        y = y + self.ls2(self.mlp(self.norm2(y)))
        return y


class PromptedVisionTransformer(PromptedTransformer, VisionTransformer):
    """timm's ``VisionTransformer`` whose blocks attend to prompts."""

    members: ClassVar[str] = "ViT, DeiT, DeiT-3, AugReg, CLIP, SigLIP, DINOv2, MAE"
    parts: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {
        Block: PromptedViTBlock,
        Attention: PromptedSelfAttention,
    }

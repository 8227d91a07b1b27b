"""Plain vision transformers with prompts: the same timm model, its blocks prompted in place.

Axes: b batch, n tokens, d width.
"""

from typing import ClassVar

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.attention import PromptedSelfAttention
from pcvpt.models.transformer import PromptedBlock, PromptedTransformer


class PromptedViTBlock(PromptedBlock, Block):
    """timm's ``Block`` with prompts."""

    @override
    def _leading(self, x: Tensor, rows: int, positions: dict[str, Tensor | None]) -> Tensor:
        y: Tensor = x[:, :rows] + self.ls1(self.attn(self.norm1(x), rows=rows, **positions))
        y = y + self.ls2(self.mlp(self.norm2(y)))
        return y


class PromptedVisionTransformer(PromptedTransformer, VisionTransformer):
    """timm's ``VisionTransformer`` whose blocks attend to prompts."""

    members: ClassVar[str] = "ViT, DeiT, DeiT-3, AugReg, CLIP, SigLIP, DINOv2, MAE"
    parts: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {
        Block: PromptedViTBlock,
        Attention: PromptedSelfAttention,
    }

"""timm's ``Eva`` with prompts: EVA, EVA-02, DINOv3, Perception Encoder and other rotary ViTs.

Patches are rotated by their position; class token, registers and prompts are not. Blocks scale
their branches by bare parameters ("gamma") instead of a LayerScale module.

Axes: b batch, n tokens, d width.
"""

from typing import Any, ClassVar

from timm.layers.attention import AttentionRope
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.eva_attention import PromptedAttentionRope, PromptedEvaAttention
from pcvpt.models.transformer import PromptedBlock, PromptedTransformer


class GammaBlock(PromptedBlock):
    """A pre-norm block whose branches are scaled by bare parameters, each of which may be None."""

    gamma_1: Any
    gamma_2: Any

    @override
    def _leading(self, x: Tensor, rows: int, positions: dict[str, Tensor | None]) -> Tensor:
        y: Tensor = self.attn(self.norm1(x), rows=rows, **positions)
        y = x[:, :rows] + (y if self.gamma_1 is None else self.gamma_1 * y)
        z: Tensor = self.mlp(self.norm2(y))
        return y + (z if self.gamma_2 is None else self.gamma_2 * z)


class PromptedEvaBlock(GammaBlock, EvaBlock):  # type: ignore[misc]
    """timm's ``EvaBlock`` with prompts."""


class PromptedEvaBlockPostNorm(PromptedBlock, EvaBlockPostNorm):  # type: ignore[misc]
    """timm's ``EvaBlockPostNorm`` with prompts; the attention sees tokens as they are."""

    @override
    def _leading(self, x: Tensor, rows: int, positions: dict[str, Tensor | None]) -> Tensor:
        y: Tensor = x[:, :rows] + self.norm1(self.attn(x, rows=rows, **positions))
        y = y + self.norm2(self.mlp(y))
        return y

    @override
    def _prompt_norm(self) -> nn.Module:
        return nn.Identity()


class PromptedEva(PromptedTransformer, Eva):
    """timm's ``Eva`` whose blocks attend to prompts."""

    parts: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {
        EvaBlock: PromptedEvaBlock,
        EvaBlockPostNorm: PromptedEvaBlockPostNorm,
        EvaAttention: PromptedEvaAttention,
        AttentionRope: PromptedAttentionRope,
    }

"""timm's ``Beit`` with prompts: BEiT and BEiT v2.

The bias of relative positions stands between the image's tokens; rows and columns of prompts have
none. The table is a block's own, or shared by all blocks.

Axes: b batch, n tokens, d width, h heads.
"""

from typing import ClassVar

from timm.models.beit import Attention, Beit, Block
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.attention import PromptedAttention
from pcvpt.models.eva import GammaBlock
from pcvpt.models.transformer import PromptedTransformer


class PromptedBeitAttention(PromptedAttention, Attention):  # type: ignore[misc]
    """BEiT's ``Attention`` with prompts."""

    @override
    def _position_bias(self, shared: Tensor | None) -> Tensor | None:
        if self.relative_position_bias_table is None:
            return shared
        own = self._get_rel_pos_bias()
        return own if shared is None else own + shared


class PromptedBeitBlock(GammaBlock, Block):  # type: ignore[misc]
    """BEiT's ``Block`` with prompts."""


class PromptedBeit(PromptedTransformer, Beit):
    """timm's ``Beit`` whose blocks attend to prompts."""

    members: ClassVar[str] = "BEiT, BEiT v2"
    parts: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {
        Block: PromptedBeitBlock,
        Attention: PromptedBeitAttention,
    }

"""Plain vision transformers with prompts: the same timm model, its blocks prompted in place.

Axes: b batch, n tokens, p prompts, d width.
"""

from typing import Literal

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from typing_extensions import Self, override

from pcvpt.errors import UsageError
from pcvpt.models.attention import PromptedAttention, PromptSource, prompt_attention
from pcvpt.models.bank import PromptBank

Mode = Literal["deep", "shallow", "linear"]
Execution = Literal["prefix", "tokens"]
_ATTENTIONS = (Attention, PromptedAttention)


class PromptedBlock(Block):
    """timm's ``Block`` that may insert prompt tokens, drop them, and compute only some rows.

    Attributes:
        source: the block's prompts, None when it has none.
        inserts: append the prompts to the sequence before the block.
        removes: drop the prompts' rows from the block's output.
        pooled_rows: compute the output of this many leading tokens only: the rows that are
            pooled, when this is the last block. None: of all tokens.
        lean: never compute rows that would be dropped.
    """

    source: PromptSource | None
    inserts: bool
    removes: bool
    pooled_rows: int | None
    lean: bool

    @override
    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise NotImplementedError("prompted blocks take no attention mask")
        if self.inserts and self.source is not None:
            x = torch.cat([x, self.source.tokens(len(x))], dim=1)
        rows = x.shape[1]
        if self.removes and self.source is not None:
            rows -= self.source.count()
        if not self.lean:
            whole: Tensor = super().forward(x)
            return whole[:, :rows]
        rows = rows if self.pooled_rows is None else self.pooled_rows
        y: Tensor = x[:, :rows] + self.ls1(self.attn(self.norm1(x), rows=rows))
        y = y + self.ls2(self.mlp(self.norm2(y)))
        return y


class PromptedVisionTransformer(VisionTransformer):
    """timm's ``VisionTransformer`` whose blocks attend to prompts.

    Everything of timm's stays: parameter names, ``forward_features``, pooling, head. The backbone
    is frozen and always in evaluation mode; ``train()`` reaches only the prompts and the head.

    Attributes:
        prompts: the :class:`~pcvpt.models.bank.PromptBank`.
        mode: "deep" (prompts of their own in every block), "shallow" (prompts enter once), or
            "linear" (no prompts: a linear probe).
    """

    prompts: PromptBank
    mode: Mode
    _execution: Execution

    @property
    def execution(self) -> Execution:
        """How prompts are computed; assigning switches, the function stays the same.

        "prefix": keys and values only where nothing else is read (all of Deep, the last block of
        Shallow), and only the pooled rows of the last block. "tokens": the paper's literal form.
        """
        return self._execution

    @execution.setter
    def execution(self, execution: Execution) -> None:
        last = len(self.blocks) - 1
        prefix = execution == "prefix"
        pooled_rows = 1 if self.attn_pool is None and self.global_pool == "token" else None
        for i, block in enumerate(self.blocks):
            source = {
                "deep": PromptSource(self.prompts, i),
                "shallow": PromptSource(self.prompts, 0),
                "linear": None,
            }[self.mode]
            enters = self.mode == "deep" or i == 0
            leaves = self.mode == "deep" or i == last
            as_keys = prefix and self.mode == "deep"
            block.__class__ = PromptedBlock
            assert isinstance(block, PromptedBlock)
            assert isinstance(block.attn, Attention)
            prompt_attention(block.attn, source, block.norm1 if as_keys else None)
            block.source = source
            block.inserts = enters and not as_keys
            block.removes = leaves and not as_keys
            block.pooled_rows = pooled_rows if i == last else None
            block.lean = prefix and i == last
        self._execution = execution

    @override
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.execution = self._execution  # the rows that are pooled may be others

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(False)
        self.training = mode
        for trained in (self.prompts, self.head_drop, self.head):
            trained.train(mode)
        return self


def prompt_vision_transformer(
    model: VisionTransformer, bank: PromptBank, mode: Mode, execution: Execution
) -> PromptedVisionTransformer:
    """Put ``bank`` into ``model``, in place, and freeze everything but the prompts and the head."""
    model = require_supported(model)
    model.__class__ = PromptedVisionTransformer
    assert isinstance(model, PromptedVisionTransformer)
    model.prompts = bank
    model.mode = mode
    model.execution = execution
    for name, parameter in model.named_parameters():
        # A linear probe's prompts are empty: distributed training waits for what is never used.
        trained = name.startswith(("prompts.", "head.")) and parameter.numel() > 0
        parameter.requires_grad_(trained)
    return model.train(model.training)


def require_supported(model: nn.Module) -> VisionTransformer:
    """Return ``model``; a UsageError unless it is a plain timm ViT of known blocks."""
    # A subclass has a forward of its own, which prompting would drop.
    if type(model) not in (VisionTransformer, PromptedVisionTransformer):
        raise UsageError(
            f"{type(model).__name__} is not supported; supported: timm's plain VisionTransformer "
            "(ViT, DeiT, AugReg, CLIP, SigLIP, DINOv2, MAE)"
        )
    assert isinstance(model, VisionTransformer)
    for block in model.blocks:
        for name, known in (("", (Block, PromptedBlock)), ("attn", _ATTENTIONS)):
            part = block.get_submodule(name)
            if type(part) not in known:
                raise UsageError(
                    f"blocks with {type(part).__name__} are not supported; supported: timm's Block "
                    "with Attention"
                )
    return model

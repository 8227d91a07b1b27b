"""Swin transformers with prompts: the same timm model, its blocks prompted in place.

Axes: b batch, w windows of an image, n patches of a window, p prompts, d width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.errors import UsageError
from pcvpt.models.prompt_keys_values import PromptSource
from pcvpt.models.prompts_at_once import autocast_type
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.window_attention import PromptedWindowAttention
from pcvpt.models.windows import Windows

# Between blocks: patches (b, height, width, d), and prompts (b, p, d) where they flow on.
Flow = Tensor | tuple[Tensor, Tensor]


class PromptedSwinBlock(SwinTransformerBlock):
    """timm's ``SwinTransformerBlock`` with prompts; as it is frozen, without its drop path.

    Attributes:
        inserts: The prompts enter here, in place of the output of the block before at its prompts.
        removes: The block does not return its output at the prompts.
    """

    inserts: bool
    removes: bool
    _windows: Windows | None = None
    attn: Any  # timm's, as the next
    attn_mask: Tensor | None

    @override
    def forward(self, x: Flow) -> Flow:  # type: ignore[override]
        patches: Tensor = x[0] if isinstance(x, tuple) else x
        prompts, entering = None, self.attn.entering_prompts(patches)
        if entering is None and not self.attn.frozen():
            # Those of the block before, which returned a pair, flow on.
            prompts = self.attn.source.values(patches) if self.inserts else x[1]
            entering = self.norm1(prompts)
        cutting = self._windows_of(patches)
        windows = cutting.cut(self.norm1(patches))
        mixed, mixed_prompts = self.attn(
            windows,
            entering,
            mask=self._mask(cutting.size, windows),
            returned=not self.removes,
        )
        patches = cutting.add(patches, mixed)
        patches = patches + self.mlp(self.norm2(patches))
        if prompts is None or mixed_prompts is None:
            return patches
        flowing: Tensor = prompts + mixed_prompts
        flowing = flowing + self.mlp(self.norm2(flowing))
        return patches if self.removes else (patches, flowing)

    def prompt_norm(self) -> nn.Module:
        """Return the norm that prompts pass before the attention, as patches do."""
        return self.norm1

    def _windows_of(self, patches: Tensor) -> Windows:
        size = (patches.shape[1], patches.shape[2])
        compiling = torch.compiler.is_compiling()
        made = None if compiling else self._windows
        if made is None or made.size != size or made.device != patches.device:
            made = Windows(size, self.window_size, self.shift_size, patches.device)
            if not compiling:
                self._windows = made
        return made

    def _mask(self, size: tuple[int, int], like: Tensor) -> Tensor | None:
        """Return the mask ``(w, n, n)`` of shifted windows; computed where the size may vary."""
        if not getattr(self, "dynamic_mask", False):
            return self.attn_mask
        padded = [length + -length % w for length, w in zip(size, self.window_size, strict=True)]
        return self.get_attn_mask(like.new_empty(1, *padded, 1))


class PromptedPatchMerging(PatchMerging):
    """timm's ``PatchMerging``; a prompt stands for each of the four patches that become one."""

    @override
    def forward(self, x: Flow) -> Flow:  # type: ignore[override]
        if isinstance(x, tuple):
            return self._merged(x[0]), self._reduced(x[1].repeat(1, 1, 4))
        return self._merged(x)

    def _merged(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))  # else it would copy
        four: Tensor = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        return self._reduced(four.permute(0, 1, 3, 4, 2, 5).flatten(3))

    def _reduced(self, x: Tensor) -> Tensor:
        """Return the sum of a stage, in float32 under autocast, as that of the first stage is.

        Each LayerNorm of the stage would have to convert it, since autocast computes norms so.
        """
        x = self.reduction(self.norm(x))
        return x if autocast_type(x.device.type) is None else x.float()


class PromptedSwinTransformer(PromptedTransformer, SwinTransformer):
    """timm's ``SwinTransformer`` whose windows attend to prompts.

    In Deep, prompt dropout is shared by the images of a batch, as in the release of Visual Prompt
    Tuning: keys and values of the prompts are then the same for all of them.
    """

    _pool_prompts: bool = False
    members = "Swin, S3"
    shares_dropout = True
    parts = (PromptedSwinBlock, PromptedWindowAttention, PromptedPatchMerging)

    @property
    def blocks(self) -> list[Any]:
        """The blocks of all stages, in order."""
        return self.timm_blocks(self)

    @override
    def _arrange_blocks(self) -> None:
        if self.mode == "linear":
            return  # nothing of timm's is changed
        self._prompt_parts()
        deep, last = self.has_own_prompts, len(self.blocks) - 1
        tokens = self._execution == "tokens"
        for i, block in enumerate(self.blocks):
            block.attn.source = PromptSource(self.prompts, i if deep else 0)
            block.attn.literal = tokens
            block.inserts = deep or i == 0
            # In tokens, Deep's prompts enter the patch merging; the next block overwrites them.
            block.removes = not self._pool_prompts if i == last else deep and not tokens
            own = block.inserts and block.removes and not tokens
            block.attn.norm_prompts = (block.norm1,) if own else ()

    @property
    def pool_prompts(self) -> bool:
        """Whether the head sees the mean over patches and prompts; see :func:`pcvpt.create_model`.

        Raises:
            UsageError: If it is set without prompts, or with a pooling that is not the mean.
        """
        return self._pool_prompts

    @pool_prompts.setter
    def pool_prompts(self, pool: bool) -> None:
        pooling = self.head.global_pool.pool_type
        tokens = self.mode != "linear" and self.prompts.form == "token"
        if pool and not (tokens and pooling == "avg"):
            raise UsageError(
                f"pool_prompts=True with mode={self.mode!r} and global_pool={pooling!r}; "
                "it needs prompts that are tokens, and global_pool='avg'"
            )
        self._pool_prompts = pool
        self.execution = self._execution  # the last block's prompts may be read now

    @override
    def why_tokens(self) -> str | None:
        pooled = "pool_prompts=True averages prompts, so they can't be keys and values"
        return super().why_tokens() or (pooled if self._pool_prompts else None)

    @override
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.pool_prompts = self._pool_prompts  # the new pooling may not have it

    @override
    def _logits(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        flow: Flow = self.layers(self.patch_embed(x))
        if not isinstance(flow, tuple):
            of_patches: Tensor = self.forward_head(self.norm(flow))
            return of_patches
        pooled = self._pool(self.norm(flow[0]).flatten(1, 2), self.norm(flow[1]))
        logits: Tensor = self.head.fc(self.head.drop(pooled))
        return logits

    def _pool(self, patches: Tensor, prompts: Tensor) -> Tensor:
        """Return the mean ``(b, d)``; there too, a prompt counts by its gate and its weight."""
        parts = self.blocks[-1].attn.source.bias()
        wide = torch.promote_types(patches.dtype, torch.float32)
        parts = [part.flatten(1).to(wide) for part in parts if part is not None]  # of one head
        if not parts:
            return torch.cat([patches, prompts.expand(patches.shape[0], -1, -1)], dim=1).mean(1)
        gate = torch.stack(torch.broadcast_tensors(*parts)).sum(0).exp()
        total = patches.sum(1) + (gate[:, :, None] * prompts).sum(1)
        mean: Tensor = total / (patches.shape[1] + gate.sum(1, keepdim=True))
        return mean.type_as(patches)

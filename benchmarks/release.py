"""The form in which Visual Prompt Tuning is published: prompts as tokens of the sequence.

The baseline of the benchmarks, written out here from what the paper says (Jia et al., ECCV 2022,
section 3.2, VPT-Deep) and from a description of its release, none of whose code is here: a plain
timm backbone, frozen and in evaluation mode; before every block the prompts are set between class
token and patches in place of those of the block before; every row is computed in every block. In
Swin the prompts are copied into each window, where their rows and columns of the position bias
are zero; what windows make of them is averaged, passes the MLP once for each image, is repeated
four times at a patch merging, and is in the mean that the head sees.

It is the same function as ``execution="tokens"``
(``tests/repository/test_benchmarks.py``), which shares code with what is measured against it.
This one does not.

Axes: b images, n tokens, w windows of an image, p prompts, d width.
"""

import math
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer, window_partition, window_reverse
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pcvpt import UsageError


class ReleaseForm(nn.Module):
    """What both families share: a frozen backbone, prompts for each block, a trained head.

    Args:
        backbone: Model of timm, unchanged.
        widths: Width of each block, in order.
        prompts: Prompts per block. With 0, this is the bare backbone under a linear probe.
        dropout: Probability of zeroing an element of a prompt in training.
    """

    def __init__(self, backbone: Any, widths: list[int], prompts: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        backbone.get_classifier().requires_grad_(True)
        bound = math.sqrt(6 / (3 * math.prod(backbone.patch_embed.patch_size) + widths[0]))
        count = len(widths) if prompts else 0  # of what is never used there is no gradient
        self.prompts = nn.ParameterList(
            torch.empty(prompts, width).uniform_(-bound, bound) for width in widths[:count]
        )
        self.count, self.dropout = prompts, dropout

    def train(self, mode: bool = True) -> "ReleaseForm":
        super().train(False)
        self.training = mode
        return self

    def with_prompts(self, x: Tensor, layer: int, first: int) -> Tensor:
        """Set prompts of ``layer`` behind the ``first`` tokens of ``x``, which has none there."""
        if not self.count:
            return x
        values = self.drawn(layer, len(x))
        return torch.cat([x[:, :first], values.type_as(x), x[:, first:]], dim=1)

    def drawn(self, layer: int, batch: int) -> Tensor:
        """Return the prompts of ``layer`` as tokens ``(b, p, d)``, after their dropout."""
        raise NotImplementedError


class ReleaseViT(ReleaseForm):
    """A ViT with a class token, after which the prompts stand."""

    def drawn(self, layer: int, batch: int) -> Tensor:
        # Each image has its own mask.
        expanded = self.prompts[layer].expand(batch, -1, -1)
        return F.dropout(expanded, self.dropout, self.training)

    def forward(self, images: Tensor) -> Tensor:
        vit = self.backbone
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        first = vit.num_prefix_tokens
        patches = x.shape[1] - first
        for layer, block in enumerate(vit.blocks):
            x = torch.cat([x[:, :first], x[:, -patches:]], dim=1) if layer and self.count else x
            x = block(self.with_prompts(x, layer, first))
        logits: Tensor = vit.forward_head(vit.norm(x))
        return logits


class ReleaseSwin(ReleaseForm):
    """A Swin, in whose sequences the prompts stand first."""

    def drawn(self, layer: int, batch: int) -> Tensor:
        # One mask for all images.
        return F.dropout(self.prompts[layer], self.dropout, self.training).expand(batch, -1, -1)

    def forward(self, images: Tensor) -> Tensor:
        swin, p = self.backbone, self.count
        x = swin.patch_embed(images)
        size = (x.shape[1], x.shape[2])
        x = x.flatten(1, 2)
        layer = 0
        for index, stage in enumerate(swin.layers):
            if index:
                x, size = self._merge(stage.downsample, x, p, size)
            for block in stage.blocks:
                x = self._block(block, self.with_prompts(x[:, p * (layer > 0) :], layer, 0), size)
                layer += 1
        pooled = swin.norm(x).mean(dim=1)
        logits: Tensor = swin.head.fc(swin.head.drop(pooled))
        return logits

    def _merge(
        self, merging: Any, x: Tensor, p: int, size: tuple[int, int]
    ) -> tuple[Tensor, tuple[int, int]]:
        patches = merging(x[:, p:].unflatten(1, size))
        size = (patches.shape[1], patches.shape[2])
        if not p:
            return patches.flatten(1, 2), size
        prompts = merging.reduction(merging.norm(x[:, :p].repeat(1, 1, 4)))
        return torch.cat([prompts, patches.flatten(1, 2)], dim=1), size

    def _block(self, block: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
        p, normed = self.count, block.norm1(x)
        window, shift = block.window_size, block.shift_size
        patches = normed[:, p:].unflatten(1, size)
        if any(shift):
            patches = torch.roll(patches, (-shift[0], -shift[1]), (1, 2))
        windows = window_partition(patches, window).flatten(1, 2)
        each = len(windows) // len(x)
        if p:
            copies = normed[:, :p].repeat_interleave(each, dim=0)
            windows = torch.cat([copies, windows], dim=1)
        y = _attend(block.attn, windows, block.attn_mask, p)
        patches = window_reverse(y[:, p:].unflatten(1, window), window, *size)
        if any(shift):
            patches = torch.roll(patches, shift, (1, 2))
        y_prompts = y[:, :p].unflatten(0, (len(x), each)).mean(dim=1)
        x = x + torch.cat([y_prompts, patches.flatten(1, 2)], dim=1)
        x = x + block.mlp(block.norm2(x))
        return x


def _attend(attention: Any, x: Tensor, mask: Tensor | None, p: int) -> Tensor:
    """Attend within windows ``(b·w, p + n, d)``, images outer; ``mask`` is ``(w, n, n)``."""
    joint = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1))
    q, k, v = joint.permute(2, 0, 3, 1, 4).unbind(0)
    bias = F.pad(attention._get_rel_pos_bias(), (p, 0, p, 0))
    if mask is not None:
        mask = F.pad(mask, (p, 0, p, 0))[:, None]
    if attention.fused_attn:
        if mask is not None:
            bias = (bias + mask).repeat(len(x) // len(mask), 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    else:
        scores = (q * attention.scale) @ k.transpose(-2, -1) + bias
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask).flatten(0, 1)
        y = scores.softmax(dim=-1) @ v
    out: Tensor = attention.proj(y.transpose(1, 2).flatten(2))
    return out


def release_form(
    backbone: str,
    num_classes: int,
    num_prompts: int,
    dropout: float = 0.0,
    fused: bool = True,
    **timm_kwargs: Any,
) -> ReleaseForm:
    """Build the published form of VPT-Deep on a timm backbone with random weights.

    Args:
        backbone: timm's name of a ViT with token pooling, or of a Swin.
        num_classes: Number of classes.
        num_prompts: Prompts per block. 0 for the bare backbone.
        dropout: Dropout of the prompts.
        fused: Whether to compute attention by PyTorch's fused kernel, in Swin too, where timm does
            not by default. Otherwise by products and a softmax, as the release does.
        **timm_kwargs: Further arguments of ``timm.create_model``.

    Raises:
        UsageError: For another family.
    """
    model: Any = timm.create_model(backbone, num_classes=num_classes, **timm_kwargs)
    for part in model.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused
    if isinstance(model, SwinTransformer):
        widths = [block.dim for stage in model.layers for block in stage.blocks]
        return ReleaseSwin(model, widths, num_prompts, dropout)
    if isinstance(model, VisionTransformer) and model.global_pool == "token":
        return ReleaseViT(model, [model.embed_dim] * len(model.blocks), num_prompts, dropout)
    raise UsageError(f"{backbone}: the published form is of a ViT with a class token or of a Swin")

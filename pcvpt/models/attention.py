"""Self-attention that also attends to prompts.

In VPT-Deep a block's output at the prompt positions is discarded (Jia et al., ECCV 2022, eq. 6),
so a prompt acts only as one more key and value: no query, no output projection and no MLP row is
computed for it here. Prompts stand after the image's tokens; attention does not see the order.
They have no position: they are not rotated where a backbone rotates its patches, and have no
relative position bias.

Axes: b batch, n tokens, p prompts, r query rows, k keys (n + p), h heads, d width, c head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.bank import PromptBank


@dataclass
class PromptSource:
    """Where one block finds its prompts. A plain object, so that no module is registered twice."""

    bank: PromptBank
    layer: int

    def count(self) -> int:
        """Return the number of kept prompts."""
        return self.bank.count(self.layer)

    def tokens(self, batch: int) -> Tensor:
        """Return the kept prompts as tokens ``(b, p, d)`` of a sequence."""
        values: Tensor = self.bank(self.layer, batch)
        return values.expand(batch, -1, -1)


class PromptedAttention(nn.Module):
    """What every prompted attention does; mixed into a timm class, whose parameters it uses.

    Attributes:
        source: the block's prompts, None when it has none.
        norm_prompts: what the prompts pass before the attention, the block's own ``norm1``, in a
            tuple (unregistered) when they enter here as keys and values; empty when they are
            tokens of the sequence already.
    """

    source: PromptSource | None
    norm_prompts: tuple[nn.Module, ...]
    # timm's, of types that depend on the class and the version.
    num_heads: Any
    num_prefix_tokens: Any
    rotate_half: Any
    scale: Any
    proj: Any

    def project(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        rows: int | None = None,
        rope: Tensor | None = None,
        shared_rel_pos_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return queries ``(b, h, r, c)``, keys and values ``(b, h, k, c)``, and their bias.

        Args:
            x: normalised tokens ``(b, n, d)``.
            attn_mask: refused, as no classifier has one.
            is_causal: refused too.
            rows: queries are computed for this many leading tokens, all when None.
            rope: sines and cosines of the patches' rotation, ``(patches, 2c)`` or with leading
                axes for heads.
            shared_rel_pos_bias: bias ``(1, h, n, n)`` of the image's tokens, where blocks share it.

        The bias ``(b or 1, h or 1, r or 1, k)`` is None without relative positions, except while
        prompts are scored.
        """
        if attn_mask is not None or is_causal:
            raise NotImplementedError("prompted attention takes no attention mask")
        if rows is None:
            q, k, v = self._parts(x, 0, 3)
        else:
            (q,) = self._parts(x[:, :rows], 0, 1)
            k, v = self._parts(x, 1, 3)
        q, k = self._optional("q_norm", q), self._optional("k_norm", k)
        if rope is not None:
            q, k = self._rotate(q, rope).type_as(v), self._rotate(k, rope).type_as(v)
        if self.source is not None and self.norm_prompts and self.source.count():
            prompts = self.norm_prompts[0](self.source.bank(self.source.layer, x.shape[0]))
            prompt_k, prompt_v = self._parts(prompts if prompts.ndim == 3 else prompts[None], 1, 3)
            prompt_k = self._optional("k_norm", prompt_k).type_as(k)
            k = torch.cat([k, prompt_k.expand(len(k), -1, -1, -1)], dim=2)
            v = torch.cat([v, prompt_v.expand(len(v), -1, -1, -1)], dim=2)
        positions = self._position_bias(shared_rel_pos_bias)
        return q, k, v, self._bias(positions, q.shape[2], k.shape[2])

    @override
    def forward(self, x: Tensor, **context: Any) -> Tensor:
        q, k, v, bias = self.project(x, **context)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        rows = y.shape[2]
        y = self._optional("norm", y.transpose(1, 2).flatten(2))
        gate = self._modules.get("gate")
        if gate is not None:
            y = y * gate(x[:, :rows]).sigmoid()
        out: Tensor = self.proj(y)
        return out

    def attention_map(self, x: Tensor, **context: Any) -> Tensor:
        """Return the softmax weights ``(b, h, r, k)``; the last columns are the prompts'.

        Args:
            x: normalised tokens ``(b, n, d)``.
            **context: what else :meth:`forward` was called with.
        """
        q, k, _, bias = self.project(x, **context)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        weights: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1)
        return weights

    def _parts(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Return the parts ``first:last`` of (query, key, value), each ``(b, h, n, c)``."""
        raise NotImplementedError

    def _position_bias(self, shared: Tensor | None) -> Tensor | None:
        return shared

    def _joint(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, first: int, last: int
    ) -> tuple[Tensor, ...]:
        """Apply the parts ``first:last`` of the joint projection ``weight`` (3hc, d)."""
        size = weight.shape[0] // 3
        part = slice(first * size, last * size)
        y = F.linear(x, weight[part], None if bias is None else bias[part])
        split: Tensor = y.unflatten(2, (last - first, self.num_heads, -1))  # b n parts h c
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        """Rotate the patches of ``x`` (b, h, n, c): neither class nor registers, nor prompts."""
        first: int = self.num_prefix_tokens
        last = min(x.shape[2], first + rope.shape[-2])
        if last <= first:  # only the class token's query
            return x
        rope = rope[..., : last - first, :]
        patches = apply_rot_embed_cat(x[:, :, first:last], rope, half=self.rotate_half)
        return torch.cat([x[:, :, :first], patches, x[:, :, last:]], dim=2)

    def _optional(self, name: str, x: Tensor) -> Tensor:
        """Apply a part of timm's that not every family and version has."""
        part = self._modules.get(name)
        return x if part is None else part(x)

    def _bias(self, positions: Tensor | None, rows: int, keys: int) -> Tensor | None:
        """Join the bias of the image's tokens with the gate of the prompts."""
        log_gate = None if self.source is None else self.source.bank.log_gate(self.source.layer)
        bias = positions
        if bias is not None:
            tokens = bias.shape[-1]
            bias = F.pad(bias[:, :, :rows], (0, keys - tokens, 0, max(0, rows - tokens)))
        if log_gate is None:
            return bias
        gate = F.pad(log_gate, (keys - log_gate.shape[1], 0))[:, None, None, :]
        return gate if bias is None else bias + gate


def partial_bias(attention: Any) -> Tensor | None:
    """Return the bias of a joint projection whose key has none, of EVA's and BEiT's attention."""
    if attention.q_bias is None:
        return None
    return torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))


class PromptedSelfAttention(PromptedAttention, Attention):  # type: ignore[misc]
    """timm's ``Attention`` with prompts."""

    @override
    def _parts(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        return self._joint(x, self.qkv.weight, self.qkv.bias, first, last)

"""Self-attention that also attends to prompts.

In VPT-Deep a block's output at the prompt positions is discarded (Jia et al., ECCV 2022, eq. 6),
so a prompt acts only as one more key and value: no query, no output projection and no MLP row is
computed for it here. Prompts stand after the image's tokens; attention does not see the order.

Axes: b batch, n tokens, p prompts, r query rows, k keys (n + p), h heads, d width, c head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
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


class PromptedAttention(Attention):
    """timm's ``Attention`` with prompts, made from one in place by :func:`prompt_attention`.

    Attributes:
        source: the block's prompts, None when it has none.
        norm_prompts: the block's own ``norm1`` in a tuple (unregistered) when the prompts enter
            here as keys and values; empty when they are tokens of the sequence already.
    """

    source: PromptSource | None
    norm_prompts: tuple[nn.Module, ...]

    def project(
        self, x: Tensor, rows: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return queries ``(b, h, r, c)``, keys and values ``(b, h, k, c)``, and their bias.

        Args:
            x: normalised tokens ``(b, n, d)``.
            rows: queries are computed for this many leading tokens, all when None.

        The bias ``(b or 1, 1, 1, k)`` is None except while prompts are scored.
        """
        if rows is None:
            q, k, v = self._heads(self.qkv(x), 3)
        else:
            (q,) = self._linear(x[:, :rows], 0, 1)
            k, v = self._linear(x, 1, 3)
        if self.source is not None and self.norm_prompts and self.source.count():
            prompts = self.norm_prompts[0](self.source.bank(self.source.layer, x.shape[0]))
            prompt_k, prompt_v = self._linear(prompts if prompts.ndim == 3 else prompts[None], 1, 3)
            k = torch.cat([k, prompt_k.expand(len(k), -1, -1, -1)], dim=2)
            v = torch.cat([v, prompt_v.expand(len(v), -1, -1, -1)], dim=2)
        return self.q_norm(q), self.k_norm(k), v, self._bias(k.shape[2])

    @override
    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        rows: int | None = None,
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise NotImplementedError("prompted attention takes no attention mask")
        q, k, v, bias = self.project(x, rows)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = y.transpose(1, 2).flatten(2)
        if "norm" in self._modules:  # timm's scale_norm; not in every supported version
            y = self.norm(y)
        gate: nn.Module | None = getattr(self, "gate", None)
        if gate is not None:
            y = y * gate(x[:, :rows]).sigmoid()
        out: Tensor = self.proj(y)
        return out

    def attention_map(self, x: Tensor, rows: int | None = None) -> Tensor:
        """Return the softmax weights ``(b, h, r, k)``; the last columns are the prompts'."""
        q, k, _, bias = self.project(x, rows)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        weights: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1)
        return weights

    def _linear(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Apply the parts ``first:last`` of (query, key, value) of the joint projection."""
        size = self.qkv.weight.shape[0] // 3
        part = slice(first * size, last * size)
        bias = None if self.qkv.bias is None else self.qkv.bias[part]
        return self._heads(F.linear(x, self.qkv.weight[part], bias), last - first)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        split: Tensor = x.unflatten(2, (parts, self.num_heads, -1))  # b n parts h c
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _bias(self, keys: int) -> Tensor | None:
        log_gate = None if self.source is None else self.source.bank.log_gate(self.source.layer)
        if log_gate is None:
            return None
        return F.pad(log_gate, (keys - log_gate.shape[1], 0))[:, None, None, :]


def prompt_attention(
    attention: Attention, source: PromptSource | None, norm_prompts: nn.Module | None
) -> None:
    """Turn ``attention`` into a :class:`PromptedAttention` in place; parameters keep their names.

    Args:
        attention: a timm ``Attention``, or one already turned.
        source: the block's prompts, None for none.
        norm_prompts: the block's first LayerNorm when prompts enter as keys and values only.
    """
    attention.__class__ = PromptedAttention
    assert isinstance(attention, PromptedAttention)
    attention.source = source
    attention.norm_prompts = () if norm_prompts is None else (norm_prompts,)

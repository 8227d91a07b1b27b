"""Keys and values of prompts: the one place where they are computed, for every family.

In VPT-Deep a block's output at the prompt positions is discarded (Jia et al., ECCV 2022, eq. 6),
so a prompt acts only as one more key and value of the block's attention. Here a prompt passes the
block's LayerNorm and the key and value part of the backbone's frozen projection, as a token does.
It has no position: it is neither rotated nor given a relative position bias. Prompts of the form
"key_value" are keys and values themselves, as in prefix tuning (Li and Liang, ACL 2021,
https://arxiv.org/abs/2101.00190).

Axes: b batch, n tokens, p prompts, h heads, d width, c head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcvpt.models.prompt_bank import PromptBank

# Queries, keys or values: one tensor with a leading axis for them, or several.
Parts = Tensor | tuple[Tensor, ...]


@dataclass
class PromptSource:
    """Prompts of one block. A plain object, so that the bank is registered as a module once."""

    bank: PromptBank  # of the whole model
    layer: int  # of the bank, which belongs to the block

    def count(self) -> int:
        """Return the number of kept prompts."""
        return self.bank.count(self.layer)

    def values(self, like: Tensor) -> Tensor:
        """Return the kept prompts ``(b or 1, p, d)``, in the precision of ``like`` ``(b, ...)``.

        There is one row per image where dropout differs.
        """
        values: Tensor = self.bank(self.layer, like.shape[0]).type_as(like)
        return values if values.ndim == 3 else values[None]

    def bias(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the two biases of the kept prompts' columns, as the bank does."""
        return self.bank.bias(self.layer)

    def frozen(self) -> tuple[Tensor, Tensor] | None:
        """Return keys and values ``(b or 1, h, p, c)`` that stand for the prompts; here none."""
        return None


class PromptKeysValues(nn.Module):
    """The part that the attentions of all families share; mixed into a timm attention.

    ``frozen_k`` and ``frozen_v`` are buffers ``(1, h, p, c)``, once the prompts are frozen.
    """

    source: PromptSource  # prompts of the block
    # The block's norm, which prompts pass before the attention. It stands in a tuple, so that it is
    # not registered again. The tuple is empty where the prompts are tokens of the sequence.
    norm_prompts: tuple[nn.Module, ...]
    project: Any  # returns a JointAttention
    # timm's, of types that depend on the class and the version.
    num_heads: Any
    qkv: Any
    q_bias: Any
    k_bias: Any
    v_bias: Any

    def entering_prompts(self, like: Tensor) -> Tensor | None:
        """Return the prompts ``(b or 1, p, ...)`` that enter here as keys and values, normalised.

        They have the precision of ``like`` ``(b, ...)``. Where they were prepared at once, it is
        their projection ``(b or 1, p, 2hc)``. None if there are none or they are frozen.
        """
        if self.frozen() or not self.norm_prompts:
            return None
        bank, values = self.source.bank, self.source.values
        if bank.projected:
            return bank.projected[self.source.layer]
        return self.norm_prompts[0](values(like)) if bank.form == "token" else values(like)

    def prompt_keys_values(self, prompts: Tensor | None, like: Tensor) -> Parts | None:
        """Compute the keys and values ``(b or 1, h, p, c)``, or return those that are frozen.

        Args:
            prompts: Prompts ``(b or 1, p, d)`` after the block's LayerNorm, or, of the form
                "key_value", ``(b or 1, p, 2hc)``: keys of all heads, then values. None, as the
                result, where no prompt enters the attention as key and value.
            like: Tensor of the precision of the result: the tokens' values, which autocast rounds.
        """
        found: Parts | None = self.frozen()
        if found is None and prompts is not None:
            if self.source.bank.form == "key_value":
                found = self._split(prompts, 2)
            else:
                found = self.project_prompts(prompts)
        if found is None or isinstance(found, Tensor):
            return None if found is None else found.type_as(like)
        return tuple(part.type_as(like) for part in found)

    def project_prompts(self, prompts: Tensor) -> Parts:
        """Compute the keys and values ``(b, h, p, c)`` of normalised tokens ``(b, p, d)``."""
        at_once = self.source.bank.projected
        found = self._split(prompts, 2) if at_once else self.project_parts(prompts, 1, 3)
        key, value = found
        normed = self.optional("k_norm", key)
        return found if normed is key else (normed.type_as(value), value)

    def project_tokens(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Compute query, key and value ``(..., h, n, c)`` of tokens ``(..., n, d)``.

        The fourth result is key and value as one tensor ``(2, ..., h, n, c)``; None if they are
        computed apart.
        """
        parts = self.project_parts(x, 0, 3)
        if not isinstance(parts, Tensor):
            q, k, v = parts
            return q, k, v, None
        first, both = parts.split((1, 2))
        k, v = both
        return first.squeeze(0), k, v, both

    def is_trained(self) -> bool:
        """Whether the prompts are trained or scored, so that there is a backward pass."""
        return self.source.bank.training or self.source.bank.log_gate is not None

    def freeze(self, keys_values: Parts | None) -> None:
        """Register a result of :meth:`prompt_keys_values` as buffers that stand for the prompts."""
        if keys_values is not None:
            for name, part in zip(("frozen_k", "frozen_v"), keys_values, strict=True):
                self.register_buffer(name, part.clone())

    def frozen(self) -> tuple[Tensor, Tensor] | None:
        """Return the frozen keys and values; None unless the prompts are frozen."""
        of_batch = self.source.frozen()
        k, v = self._buffers.get("frozen_k"), self._buffers.get("frozen_v")
        return of_batch if of_batch or k is None or v is None else (k, v)

    def attention_map(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the softmax weights ``(b, w·h, r, k)`` of ``project``, those of prompts last."""
        weights: Tensor = self.project(x, *args, **kwargs).weights()
        return weights.flatten(1, 2)

    def project_parts(self, x: Tensor, first: int, last: int) -> Parts:
        """Compute the parts ``first:last`` of (query, key, value), each ``(..., h, n, c)``.

        Parts are counted from 0. ``x`` ``(..., n, d)`` are normalised tokens or prompts.
        """
        bias, parts = self._qkv_bias(), last - first
        if isinstance(self.qkv, nn.Linear):
            size = self.qkv.weight.shape[0] // 3
            part = slice(first * size, last * size)
            y = F.linear(x, self.qkv.weight[part], None if bias is None else bias[part])
        else:  # a quantized layer, whose weight has no parts
            y = self.qkv(x)
            y = y if bias is None else y + bias
            y = y.unflatten(-1, (3, -1))[..., first:last, :].flatten(-2)
        return self._split(y, parts)

    def _split(self, y: Tensor, parts: int) -> Tensor:
        split: Tensor = y.unflatten(-1, (parts, self.num_heads, -1))  # ... n parts h c
        return split.movedim(-3, 0).transpose(-3, -2)

    def _qkv_bias(self) -> Tensor | None:
        """Return the bias of the joint projection; in EVA and BEiT that of the key is a buffer."""
        if self._parameters.get("q_bias") is not None:
            return torch.cat((self.q_bias, self.k_bias, self.v_bias))
        return self.qkv.bias if isinstance(self.qkv, nn.Linear) else None

    def optional(self, name: str, x: Tensor) -> Tensor:
        """Apply the submodule ``name`` of timm's, which not every family and version has."""
        part = self._modules.get(name)
        return x if part is None else part(x)

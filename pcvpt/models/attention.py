"""Self-attention that also attends to prompts.

Prompts are placed after the image's tokens; attention does not depend on the order. Where they
enter as keys and values only (:mod:`pcvpt.models.prompt_keys_values`), no query, no output
projection and no MLP row is computed for them.

Axes: b batch, n tokens, p prompts, r query rows, k keys (n + p), h heads, d width, c head width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.joint_attention import JointAttention, pair, with_prompt_bias
from pcvpt.models.prompt_keys_values import PromptKeysValues


class PromptedAttention(PromptKeysValues):
    """Attention of a plain transformer; mixed into a timm class, whose parameters it uses."""

    # timm's, of types that depend on the class and the version.
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
    ) -> JointAttention:
        """Compute queries, keys, values and their bias; each image is one window.

        Args:
            x: Normalised tokens ``(b, n, d)``.
            attn_mask: Not supported, as no classifier has one; nor is ``is_causal``.
            rows: Number of leading tokens whose queries are computed. Default: all.
            rope: Sines and cosines of the patches' rotation, ``(patches, 2c)`` or with leading
                axes for heads.
            shared_rel_pos_bias: Bias ``(1, h, n, n)`` of the image's tokens, where blocks share it.
        """
        if attn_mask is not None or is_causal:
            raise NotImplementedError("prompted attention takes no attention mask")
        both: Tensor | None = None
        if rows is not None:
            (q,) = self.project_parts(x[:, :rows], 0, 1)
            k, v = self.project_parts(x, 1, 3)
        elif rope is None:
            q, k, v, both = self.project_tokens(x)
        else:
            # Values apart, so that queries and keys as they were before are not held with them.
            q, k = self.project_parts(x, 0, 2)
            (v,) = self.project_parts(x, 2, 3)
        q, normed = self.optional("q_norm", q), self.optional("k_norm", k)
        both, k = both if normed is k else None, normed
        if rope is not None:
            q, k = self._rotate(q, rope), self._rotate(k, rope)
        prompts = self.prompt_keys_values(self.entering_prompts(x), v)
        prompt_k, prompt_v = (None, None) if prompts is None else prompts
        bias = self._position_bias(shared_rel_pos_bias)
        if bias is not None:  # tokens of prompts have none
            rest = k.shape[2] - bias.shape[-1]
            bias = F.pad(bias, (0, rest, 0, rest))[..., : q.shape[2], :][(None,) * (5 - bias.ndim)]
        own = self.source.bias()
        if prompt_k is None:
            bias, own = with_prompt_bias(bias, k.shape[2], *own), (None, None)
        q, k, v = q.type_as(v)[:, None], k.type_as(v)[:, None], v[:, None]
        joint = pair(None if both is None else both[:, :, None], prompts)
        return JointAttention(q, k, v, prompt_k, prompt_v, bias, *own, joint)

    @override
    def entering_prompts(self, x: Tensor) -> Tensor | None:
        return super().entering_prompts(x) if self.source.count() else None

    @override
    def forward(self, x: Tensor, **context: Any) -> Tensor:
        y = self.optional("norm", self._mix(x, **context))
        gate = self._modules.get("gate")
        if gate is not None:
            y = y * gate(x[:, : y.shape[1]]).sigmoid()
        out: Tensor = self.proj(y)
        return out

    def _mix(self, x: Tensor, **context: Any) -> Tensor:
        """Return the mixed values of all heads ``(b, r, hc)``."""
        y: Tensor = self.project(x, **context).attend(self.is_trained())
        return y.squeeze(1).transpose(1, 2).flatten(2)

    def _position_bias(self, shared: Tensor | None) -> Tensor | None:
        return shared

    def _rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        """Rotate the patches of ``x`` (b, h, n, c), but not class token, registers and prompts."""
        first: int = self.num_prefix_tokens
        last = min(x.shape[2], first + rope.shape[-2])
        if last <= first:  # only the class token's query
            return x
        rope = rope[..., : last - first, :]
        patches = apply_rot_embed_cat(x[:, :, first:last], rope, half=self.rotate_half)
        return torch.cat([x[:, :, :first], patches, x[:, :, last:]], dim=2)


class PromptedSelfAttention(PromptedAttention, Attention):  # type: ignore[misc]
    """timm's ``Attention`` with prompts."""

    @override
    def _mix(self, x: Tensor, **context: Any) -> Tensor:
        foldable = isinstance(self.k_norm, nn.Identity) and isinstance(self.qkv, nn.Linear)
        if foldable and context.get("rows") == 1:
            return self._mix_for_one(x)
        return super()._mix(x, **context)

    def _mix_for_one(self, x: Tensor) -> Tensor:
        """Return the mixed values of the first token ``(b, 1, hc)``.

        For a single query, no token's key and value need be computed: q·(W x) is (q W)·x, and the
        sum of a (W x) is W times the sum of a x. Two products of n tokens with d x d weights
        become four with as many vectors as there are heads.
        """
        n = x.shape[1]
        (q,) = self.project_parts(x[:, :1], 0, 1)
        q = self.q_norm(q).squeeze(2).transpose(0, 1) * self.scale  # h b c
        _, weight_k, weight_v = self.qkv.weight.unflatten(0, (3, self.num_heads, -1))  # h c d
        scores = (q @ weight_k).transpose(0, 1) @ x.mT  # b h n
        bias = None
        if self.qkv.bias is not None:
            _, bias_k, bias = self.qkv.bias.unflatten(0, (3, self.num_heads, -1))  # h c
            scores = scores + (q * bias_k[:, None]).sum(-1).T[..., None]
        prompts = self.prompt_keys_values(self.entering_prompts(x), q)
        if prompts is not None:
            prompt_k, prompt_v = prompts
            scores = torch.cat([scores, _by_head(q, prompt_k.mT).type_as(scores)], dim=2)
        bias_of_prompts = with_prompt_bias(None, scores.shape[2], *self.source.bias())
        if bias_of_prompts is not None:
            scores = scores + bias_of_prompts[:, 0, :, 0].type_as(scores)
        weights = scores.softmax(dim=2).transpose(0, 1)  # h b k
        own = weights[..., :n]
        mixed = (own.transpose(0, 1) @ x).transpose(0, 1) @ weight_v.mT  # h b c
        if bias is not None:
            mixed = mixed + own.sum(2, keepdim=True) * bias[:, None]
        y: Tensor = mixed.transpose(0, 1)
        if prompts is not None:
            y = y + _by_head(weights[..., n:].type_as(prompt_v), prompt_v)
        return y.flatten(1)[:, None]


def _by_head(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiply a row ``(h, b, i)`` of each image by ``(b or 1, h, i, j)``: ``(b, h, j)``."""
    if matrices.shape[0] == 1:
        return (rows @ matrices[0]).transpose(0, 1)
    return (rows.transpose(0, 1)[:, :, None] @ matrices).squeeze(2)

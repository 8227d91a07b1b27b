"""Attention to tokens and attention to prompts apart, on the CPU, and joined by their log-sum-exp.

The fused attention of the CPU also gives the logarithm of the sum of its weights (log-sum-exp).
With (y1, l1) of the tokens and (y2, l2) of the prompts,

    l = log(exp l1 + exp l2),    y = exp(l1 - l) y1 + exp(l2 - l) y2,

which is exact, as is the backward of each part given the joint y and l (the way in which blockwise
attention is computed, Dao et al., arXiv 2205.14135).

Axes: those of :mod:`pcvpt.models.joint_attention`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _Apart(torch.autograd.Function):
    """Attention to tokens and prompts apart, on the CPU. It holds no copy of its inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prompt_k: Tensor,
        prompt_v: Tensor,
        bias: Tensor | None,
        log_weight: Tensor | None,
        log_gate: Tensor | None,
    ) -> Tensor:
        shape = q.shape[:2]
        y, lse = _attend_on_cpu(*_sequences(q, k, v), attn_mask=_of_sequences(bias, shape))
        y, lse = y.unflatten(0, shape), lse.unflatten(0, shape)[..., None]
        if log_gate is None:
            rows = _grouped(q, prompt_k.shape[0])
            weight = _of_rows(log_weight, rows)
            of_prompts, prompt_lse = _attend_on_cpu(rows, prompt_k, prompt_v, attn_mask=weight)
            prompt_lse = _ungrouped(prompt_lse[..., None], lse)
            joint_lse = torch.logaddexp(lse, prompt_lse)
            share = (prompt_lse - joint_lse).exp().type_as(y)
            y = torch.lerp(y, _ungrouped(of_prompts, y), share)
        else:
            scores = _gated_scores(q, prompt_k, log_weight, log_gate)
            prompt_lse = _ungrouped(scores.logsumexp(-1, keepdim=True), lse)
            joint_lse = torch.logaddexp(lse, prompt_lse)
            weights = (scores - _grouped(joint_lse, scores.shape[0])).exp()
            of_prompts = _ungrouped(weights @ prompt_v.type_as(weights), y)
            y = (y * (lse - joint_lse).exp() + of_prompts).type_as(y)
        ctx.save_for_backward(q, k, v, prompt_k, prompt_v, bias, log_weight, log_gate, y, joint_lse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, prompt_k, prompt_v, bias, log_weight, log_gate, y, lse = ctx.saved_tensors
        shape = q.shape[:2]
        of_q = of_k = of_v = of_prompt_k = of_prompt_v = of_gate = None
        if any(ctx.needs_input_grad[:3]):
            # Not so in the first block: what enters it is not trained.
            own = _sequences(grad, q, k, v, y, lse[..., 0])
            parts = _attend_on_cpu_backward(*own, attn_mask=_of_sequences(bias, shape))
            of_q, of_k, of_v = (part.unflatten(0, shape) for part in parts)
        if log_gate is None:
            grad_rows, q_rows, y_rows, lse_rows = (
                _grouped(part, prompt_k.shape[0]) for part in (grad, q, y, lse)
            )
            own = [grad_rows, q_rows, prompt_k, prompt_v, y_rows, lse_rows[..., 0]]
            parts = _attend_on_cpu_backward(*own, attn_mask=_of_rows(log_weight, q_rows))
            of_rows, of_prompt_k, of_prompt_v = parts
        else:
            scores = _gated_scores(q, prompt_k, log_weight, log_gate)
            groups = scores.shape[0]
            grad_rows, q_rows, y_rows, lse_rows = (
                _grouped(part.type_as(scores), groups) for part in (grad, q, y, lse)
            )
            wide_k, wide_v = prompt_k.type_as(scores), prompt_v.type_as(scores)
            weights = (scores - lse_rows).exp()
            of_weights = grad_rows @ wide_v.transpose(-2, -1)
            of_scores = weights * (of_weights - (grad_rows * y_rows).sum(-1, keepdim=True))
            of_gate = of_scores.sum((1, 2)).sum_to_size(log_gate.shape)
            of_scores = of_scores * q.shape[-1] ** -0.5
            of_rows = (of_scores @ wide_k).type_as(q)
            if ctx.needs_input_grad[3]:  # not while only the gate is asked for
                of_prompt_k, of_prompt_v = (
                    (rows.transpose(-2, -1) @ other).sum_to_size(prompt_k.shape).type_as(q)
                    for rows, other in ((of_scores, q_rows), (weights, grad_rows))
                )
        if of_q is not None:
            of_q = of_q + _ungrouped(of_rows, q)
        return of_q, of_k, of_v, of_prompt_k, of_prompt_v, None, None, of_gate


attend_apart: Callable[..., Tensor] = _Apart.apply
"""Takes the fields of a ``JointAttention`` up to ``log_gate``; returns the mixed values."""


def _attend_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the mixed values and the log-sum-exp.

    At least in float32: with bfloat16 the backward of this operation takes three times as long.
    """
    wide = [widened(part) for part in (q, k, v)]
    y, lse = _attention(*wide, attn_mask=None if attn_mask is None else attn_mask.type_as(wide[0]))
    return y.type_as(q), lse


def _attend_on_cpu_backward(
    grad: Tensor, q: Tensor, *saved: Tensor, attn_mask: Tensor | None
) -> list[Tensor]:
    """Return the gradients of queries, keys and values; ``saved``: k, v, y, log-sum-exp."""
    wide = [widened(part) for part in (grad, q, *saved)]
    mask = None if attn_mask is None else attn_mask.type_as(wide[0])
    return [part.type_as(q) for part in _attention_backward(*wide, 0.0, False, attn_mask=mask)]


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or as it is if it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _of_rows(log_weight: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return ``log_weight`` (1, h or 1, p) as the mask of ``rows`` (g, h, rows, c), not copied."""
    return None if log_weight is None else log_weight[:, :, None].expand(*rows.shape[:3], -1)


def _gated_scores(
    q: Tensor, prompt_k: Tensor, log_weight: Tensor | None, log_gate: Tensor
) -> Tensor:
    """Return the prompts' attention scores ``(g, h, rows of the group, p)``, biases included.

    At least in float32, as in the fused attention.
    """
    groups = max(prompt_k.shape[0], log_gate.shape[0])
    wide = torch.promote_types(q.dtype, torch.float32)
    scaled = _grouped(q.to(wide), groups) * q.shape[-1] ** -0.5
    scores: Tensor = scaled @ prompt_k.to(wide).transpose(-2, -1) + log_gate[:, None, None].to(wide)
    return scores if log_weight is None else scores + log_weight[:, :, None].to(wide)


def _sequences(*parts: Tensor) -> list[Tensor]:
    """Join images and windows: ``(b, w, ...)`` to ``(s, ...)``."""
    return [part.flatten(0, 1) for part in parts]


def _of_sequences(bias: Tensor | None, shape: torch.Size) -> Tensor | None:
    """Return ``bias`` as one of sequences; copied for each image only where windows differ."""
    if bias is None or bias.shape[:2] == (1, 1):
        return None if bias is None else bias[0]
    copied: Tensor = bias.expand(*shape, -1, -1, -1)
    return copied.flatten(0, 1)


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Put all rows of a group in one sequence: ``(b, w, h, r, c)`` to ``(g, h, b/g·w·r, c)``."""
    split: Tensor = x.unflatten(0, (groups, -1))
    return split.permute(0, 3, 1, 2, 4, 5).flatten(2, 4)


def _ungrouped(y: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`_grouped`, to the images, windows and rows of ``like``."""
    images, windows, _, rows = like.shape[:4]
    split: Tensor = y.unflatten(2, (images // y.shape[0], windows, rows))
    return split.permute(0, 2, 3, 1, 4, 5).flatten(0, 1)

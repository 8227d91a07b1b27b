"""Attention of one sequence to its own tokens and to prompts that are keys and values only.

Keys and values of prompts are the same for all images (or, in Swin, for all windows of an image),
but one fused attention takes one tensor of keys for each sequence: joining them there copies the
prompts as often as there are sequences, and holds tokens' keys and values twice for backward. On
the CPU, whose fused attention also gives the logarithm of the sum of its weights (log-sum-exp),
training and scoring compute the attention to tokens and the attention to prompts separately and
join the results: with (y1, l1) of the tokens and (y2, l2) of the prompts,

    l = log(exp l1 + exp l2),    y = exp(l1 - l) y1 + exp(l2 - l) y2,

which is exact, as is the backward of each part given the joint y and l (the way in which blockwise
attention is computed, Dao et al., arXiv 2205.14135). Elsewhere they are joined before, and torch
chooses among its fused kernels (flash, memory-efficient), but never takes cuDNN's.

Axes: b images, w windows of an image (1 where there are none), s = b·w sequences, h heads,
r query rows, n tokens, p prompts, c head width, g groups of images that share prompts (1 or b).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.backends import cuda
from typing_extensions import Self

_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class ConstantBias:
    """A bias of the tokens' columns that no training changes, in the form that was used last.

    Args:
        tensor: Bias ``(1, w or 1, h, n, n)``.
        is_kept: Whether it really does not change and is used again.
    """

    def __init__(self, tensor: Tensor, is_kept: bool) -> None:
        self.tensor, self.is_kept = tensor, is_kept
        self._form: tuple[int, torch.dtype] | None = None
        self._joined = tensor

    def joined(self, keys: int, dtype: torch.dtype) -> Tensor:
        """Return it with zeros for the columns of prompts, which are the last of ``keys``."""
        if self._form != (keys, dtype):
            with torch.inference_mode(False), torch.no_grad():
                zeros = keys - self.tensor.shape[-1]
                # A GPU's attention would copy it unless each row starts at a multiple of 16 bytes.
                rest = -keys % 8 if self.tensor.device.type == "cuda" else 0
                self._joined = F.pad(self.tensor.to(dtype), (0, zeros + rest))[..., :keys]
            self._form = keys, dtype
        return self._joined


@dataclass(frozen=True)
class JointAttention:
    """The inputs of one attention.

    Args:
        q: Queries ``(b, w, h, r, c)``.
        k: Keys of the tokens ``(b, w, h, n, c)``.
        v: Values of the tokens, as ``k``.
        prompt_k: Keys of the prompts ``(g, h, p, c)``; None where no prompt enters as key.
        prompt_v: Values of the prompts, as ``prompt_k``.
        bias: Bias of the tokens' columns ``(b or 1, w or 1, h or 1, r or 1, n)``, or None. It has
            no gradient wherever prompts enter as keys.
        log_weight: Bias of the prompts' columns ``(1, h or 1, p)``, or None. It has no gradient.
        log_gate: Further bias of these columns ``(b or 1, p)``; None unless prompts are scored.
        both: ``k`` and ``v`` as one tensor, and those of the prompts, from :func:`pair`.
        constant: What ``bias`` is taken from, where no training changes it.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    prompt_k: Tensor | None = None
    prompt_v: Tensor | None = None
    bias: Tensor | None = None
    log_weight: Tensor | None = None
    log_gate: Tensor | None = None
    both: tuple[Tensor, Tensor] | None = None
    constant: ConstantBias | None = None

    def attend(self, trained: bool = True) -> Tensor:
        """Return the mixed values ``(b, w, h, r, c)``.

        Args:
            trained: Whether there is a backward pass to save memory for. If not, only operations
                of PyTorch are used, which can be exported.
        """
        if trained and self._is_apart():
            own = self.q, self.k, self.v, self.prompt_k, self.prompt_v
            apart: Tensor = _Apart.apply(*own, self.bias, self.log_weight, self.log_gate)
            return apart
        joined = self.joined(exact=False)
        q, k, v, bias = joined.q, joined.k, joined.v, joined.bias
        if bias is None or bias.shape[:2] == (1, 1):
            first, last = 0, 1  # windows join the images
            bias = None if bias is None else bias[0]
        else:
            # Windows join the heads, so that the bias of windows is not copied for each image.
            first, last = 1, 2
            bias = bias.expand(-1, q.shape[1], q.shape[2], -1, -1).flatten(1, 2)
        q, k, v = (part.flatten(first, last) for part in (q, k, v))
        if bias is not None and bias.dtype != q.dtype:
            if bias.requires_grad:  # so that the gradient of a gate is summed in its precision
                bias = bias.expand(*q.shape[:3], k.shape[2])
            bias = bias.type_as(q)
        y = _fused_attention(q, k, v, bias)
        mixed: Tensor = y.unflatten(first, self.q.shape[first : last + 1])
        return mixed

    def weights(self) -> Tensor:
        """Return the softmax weights ``(b, w, h, r, n + p)``; the last columns are the prompts'."""
        weights: Tensor = self.scores().softmax(dim=-1)
        return weights

    def scores(self) -> Tensor:
        """Return the logarithms of :meth:`weights`, up to a constant in each row."""
        joined = self.joined()
        scores: Tensor = (joined.q * joined.q.shape[-1] ** -0.5) @ joined.k.transpose(-2, -1)
        return scores if joined.bias is None else scores + joined.bias

    def joined(self, exact: bool = True) -> Self:
        """Return the same with the prompts copied behind the tokens of each sequence.

        Unless ``exact``, a constant bias has the precision of the queries.
        """
        if self.prompt_k is None or self.prompt_v is None:
            return self
        count, sequences = self.prompt_k.shape[2], self.k.shape[:2]
        if self.both is not None:
            own, prompts = self.both
            copies = prompts[:, :, None].expand(-1, *sequences, -1, -1, -1)
            k, v = torch.cat([own, copies], dim=4)
        else:
            k, v = (
                torch.cat([own, prompts[:, None].expand(*sequences, -1, -1, -1)], dim=3)
                for own, prompts in ((self.k, self.prompt_k), (self.v, self.prompt_v))
            )
        constant, plain = self.constant, self.log_weight is None and self.log_gate is None
        if constant is not None and plain and not exact:
            return type(self)(self.q, k, v, bias=constant.joined(k.shape[3], k.dtype))
        bias = None if self.bias is None else F.pad(self.bias, (0, count))
        bias = with_prompt_bias(bias, k.shape[3], self.log_weight, self.log_gate)
        return type(self)(self.q, k, v, bias=bias)

    def _is_apart(self) -> bool:
        if self.prompt_k is None or self.q.device.type != "cpu":
            return False
        if not self.prompt_k.shape[2] or not self.q.shape[0]:  # the operation ends the process
            return False
        if self.bias is not None and self.bias.requires_grad:
            return False  # of an unfrozen backbone
        parts = (self.q, self.k, self.v, self.prompt_k, self.prompt_v, self.log_gate)
        return torch.is_grad_enabled() and any(
            part is not None and part.requires_grad for part in parts
        )


def pair(tokens: Any, prompts: Any) -> tuple[Tensor, Tensor] | None:
    """Return keys and values of tokens and of prompts if each are one tensor of the same type.

    Prompts are then joined with the tokens by one copy instead of two.
    """
    tensors = isinstance(tokens, Tensor) and isinstance(prompts, Tensor)
    return (tokens, prompts) if tensors and tokens.dtype == prompts.dtype else None


def with_prompt_bias(
    bias: Tensor | None, keys: int, log_weight: Tensor | None, log_gate: Tensor | None
) -> Tensor | None:
    """Add the two biases of the prompts to the last of ``keys`` columns of ``bias``.

    None stands for zeros, in the result too.
    """
    for own in (log_weight, None if log_gate is None else log_gate[:, None]):
        if own is not None:
            columns = F.pad(own, (keys - own.shape[2], 0))[:, None, :, None]
            bias = columns if bias is None else bias + columns
    return bias


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Compute torch's fused attention by any of its kernels on a GPU but cuDNN's.

    torch prefers that one on some GPUs. It plans each new shape, but blocks keep different numbers
    of prompts, in both phases and for the last batch too; and it has read a float32 bias of
    bfloat16 queries as bfloat16 (https://github.com/pytorch/pytorch/pull/191612). On the CPU, its
    backward is slow in low precision, so attention that has one is computed in float32.
    """
    if q.device.type == "cpu" and q.requires_grad and q.dtype != (wide := _wide(q)).dtype:
        bias = None if bias is None else _wide(bias)
        with torch.autocast("cpu", enabled=False):
            y = F.scaled_dot_product_attention(wide, _wide(k), _wide(v), attn_mask=bias)
            return y.type_as(q)
    left_out = q.device.type == "cuda" and _may_take_cudnn()
    if left_out:
        cuda.enable_cudnn_sdp(False)
    try:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    finally:
        if left_out:
            cuda.enable_cudnn_sdp(True)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _may_take_cudnn() -> bool:
    """Whether torch may take cuDNN's attention, and another where that is left out."""
    others = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    return cuda.cudnn_sdp_enabled() and any(others)


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
            groups = prompt_k.shape[0]
            rows = _grouped(q, groups)
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
        joint: Tensor = y
        return joint

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, prompt_k, prompt_v, bias, log_weight, log_gate, y, lse = ctx.saved_tensors
        shape = q.shape[:2]
        of_q = of_k = of_v = of_prompt_k = of_prompt_v = of_gate = None
        if any(ctx.needs_input_grad[:3]):
            # Not so in the first block: what enters it is not trained.
            of_q, of_k, of_v = (
                part.unflatten(0, shape)
                for part in _attend_on_cpu_backward(
                    *_sequences(grad, q, k, v, y, lse[..., 0]),
                    attn_mask=_of_sequences(bias, shape),
                )
            )
        if log_gate is None:
            groups = prompt_k.shape[0]
            grad_rows, q_rows, y_rows, lse_rows = (
                _grouped(part, groups) for part in (grad, q, y, lse)
            )
            weight = _of_rows(log_weight, q_rows)
            own = prompt_k, prompt_v, y_rows, lse_rows[..., 0]
            of_rows, of_prompt_k, of_prompt_v = _attend_on_cpu_backward(
                grad_rows, q_rows, *own, attn_mask=weight
            )
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


def _attend_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the mixed values and the log-sum-exp.

    At least in float32: with bfloat16 the backward of this operation takes three times as long.
    """
    wide = [_wide(part) for part in (q, k, v)]
    y, lse = _attention(*wide, attn_mask=None if attn_mask is None else attn_mask.type_as(wide[0]))
    return y.type_as(q), lse


def _attend_on_cpu_backward(
    grad: Tensor, q: Tensor, *saved: Tensor, attn_mask: Tensor | None
) -> list[Tensor]:
    """Return the gradients of queries, keys and values; ``saved``: k, v, y, log-sum-exp."""
    wide = [_wide(part) for part in (grad, q, *saved)]
    mask = None if attn_mask is None else attn_mask.type_as(wide[0])
    return [part.type_as(q) for part in _attention_backward(*wide, 0.0, False, attn_mask=mask)]


def _wide(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or as it is if it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _of_rows(log_weight: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return ``log_weight`` (1, h or 1, p) as the mask of ``rows`` (g, h, rows, c), not copied."""
    if log_weight is None:
        return None
    return log_weight[:, :, None].expand(*rows.shape[:3], -1)


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

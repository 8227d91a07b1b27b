"""Attention of one sequence to its own tokens and to prompts that are keys and values only.

Keys and values of prompts are the same for all images (or, in Swin, for all windows of an image),
but one fused attention takes one tensor of keys for each sequence: joining them there copies the
prompts as often as there are sequences, and holds tokens' keys and values twice for backward. On
the CPU, training and scoring compute both apart (:mod:`pcvpt.models.apart_attention`). Elsewhere
they are joined before, and torch chooses among its fused kernels (flash, memory-efficient), but
never takes cuDNN's.

Axes: b images, w windows of an image (1 where there are none), s = b·w sequences, h heads,
r query rows, n tokens, p prompts, c head width, g groups of images that share prompts (1 or b).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cuda
from typing_extensions import Self

from pcvpt.models.apart_attention import attend_apart, widened


class ConstantBias:
    """A bias ``(1, w or 1, h, n, n)`` that no training changes, in the form that was used last."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
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

    ``bias`` has no gradient wherever prompts enter as keys, ``log_weight`` has none at all.
    """

    q: Tensor  # queries (b, w, h, r, c)
    k: Tensor  # keys of the tokens (b, w, h, n, c)
    v: Tensor  # values of the tokens, as k
    prompt_k: Tensor | None = None  # keys (g, h, p, c); None where no prompt enters as key
    prompt_v: Tensor | None = None  # values of the prompts, as prompt_k
    bias: Tensor | None = None  # of the tokens' columns (b or 1, w or 1, h or 1, r or 1, n)
    log_weight: Tensor | None = None  # bias of the prompts' columns (1, h or 1, p)
    log_gate: Tensor | None = None  # further bias of these (b or 1, p), while they are scored
    both: tuple[Tensor, Tensor] | None = None  # of pair: k and v as one tensor, of prompts too
    constant: ConstantBias | None = None  # what bias is taken from, where no training changes it

    def attend(self, trained: bool = True) -> Tensor:
        """Return the mixed values ``(b, w, h, r, c)``.

        Unless ``trained``, so that there is a backward pass to save memory for, only operations of
        PyTorch are used, which can be exported.
        """
        if trained and self._is_apart():
            own = self.q, self.k, self.v, self.prompt_k, self.prompt_v
            return attend_apart(*own, self.bias, self.log_weight, self.log_gate)
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
        return self.scores().softmax(dim=-1)

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
    if q.device.type == "cpu" and q.requires_grad and q.dtype != (wide := widened(q)).dtype:
        bias = None if bias is None else widened(bias)
        with torch.autocast("cpu", enabled=False):
            y = F.scaled_dot_product_attention(wide, widened(k), widened(v), attn_mask=bias)
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

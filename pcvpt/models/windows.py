"""The windows of a Swin: cut the patches of an image into them, and put them back.

Axes: b batch, w windows of an image, n patches of a window, d width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor
from torch.autograd.function import once_differentiable

from pcvpt.models.prompts_at_once import autocast_type

Size = tuple[int, int]
Index = tuple[slice, Tensor, Tensor]


class Windows:
    """The windows of images of one ``size`` (height and width, in patches, as all numbers here).

    Images are rolled up and left by ``shift``, and padded with zeros at the end.
    """

    def __init__(self, size: Size, window: Size, shift: Size, device: torch.device) -> None:
        self.size, self.window, self.shift, self.device = size, window, shift, device
        self.padding = -size[0] % window[0], -size[1] % window[1]
        self._orders: tuple[Index, Index] | None = None
        # A compiler joins the operations of a roll by itself.
        if any(shift) and not any(self.padding) and not torch.compiler.is_compiling():
            with torch.inference_mode(False):
                self._orders = self._both_orders()

    def cut(self, x: Tensor) -> Tensor:
        """Cut patches ``(b, height, width, d)`` into windows ``(b, w, n, d)``.

        Where a copy rounds as well, the result has the precision of autocast.
        """
        if self._orders is not None:
            return _reordered(x, *self._orders)
        if any(self.shift):
            x = torch.roll(x, (-self.shift[0], -self.shift[1]), (1, 2))
        if any(self.padding):
            x = F.pad(x, (0, 0, 0, self.padding[1], 0, self.padding[0]))
        elif x.dtype == torch.float32 and (rounded := autocast_type(x.device.type)) is not None:
            x = self._split(x).to(rounded, memory_format=torch.contiguous_format)
            return x.flatten(1, 2).flatten(2, 3)
        windows: Tensor = window_partition(x, self.window)
        return windows.view(x.shape[0], -1, self.window[0] * self.window[1], x.shape[3])

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum ``(b, height, width, d)`` of patches ``x`` and windows ``y``."""
        if self._orders is not None:
            return x + _reordered(y, *reversed(self._orders))
        if not any(self.shift) and not any(self.padding):
            height, width = self.size[0] // self.window[0], self.size[1] // self.window[1]
            parts = y.unflatten(2, self.window).unflatten(1, (height, width))
            windows = self._split(x) + parts
            whole: Tensor = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)
            return whole
        padded = self.size[0] + self.padding[0], self.size[1] + self.padding[1]
        whole = window_reverse(y.flatten(0, 1).unflatten(1, self.window), self.window, *padded)
        whole = whole[:, : self.size[0], : self.size[1]]
        return x + (torch.roll(whole, self.shift, (1, 2)) if any(self.shift) else whole)

    def _split(self, x: Tensor) -> Tensor:
        """View patches as ``(b, rows of windows, columns of windows, height, width, d)``."""
        split: Tensor = x.unflatten(2, (-1, self.window[1])).unflatten(1, (-1, self.window[0]))
        return split.transpose(2, 3)

    def _both_orders(self) -> tuple[Index, Index]:
        """Return row and column ``(w, n)`` of each place of windows, and where each patch goes.

        The latter are the window, and the place in it, ``(height, width)``.
        """
        width, length = self.size[1], self.window[0] * self.window[1]
        numbers = torch.arange(self.size[0] * width, device=self.device).view(1, -1, width, 1)
        rolled = torch.roll(numbers, (-self.shift[0], -self.shift[1]), (1, 2))
        cut = window_partition(rolled, self.window).flatten(1)
        join = cut.flatten().argsort().view(self.size)
        every = slice(None)
        return (every, cut // width, cut % width), (every, join // length, join % length)


def _reordered(x: Tensor, order: Index, inverse: Index) -> Tensor:
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if tracing or not x.requires_grad:  # a trace takes no function of our own
        return x[order]
    reordered: Tensor = _Reorder.apply(x, order, inverse)
    return reordered


class _Reorder(torch.autograd.Function):
    """Take the patches in another order, by one kernel; the backward pass is the inverse order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Index, inverse: Index) -> Tensor:
        ctx.inverse = inverse
        return x[order]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[ctx.inverse], None, None

"""Window attention that also attends to prompts.

In Swin with prompts, as in the release of Visual Prompt Tuning (Jia et al., ECCV 2022), each window
attends to its own patches and to the same prompts. A prompt has no position: its rows and columns
of the relative position bias and of the shift mask are zero. What a prompt makes of each window is
averaged over the windows of its own image. (In the release's Shallow mode the prompts of a batch
are laid out by window where the windows are laid out by image, so images of a batch mix. Not here.)

Axes: b batch, w windows of an image, n patches of a window, p prompts, r query rows,
k keys (n + p), h heads, d width, c head width.
"""

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from torch import Tensor
from typing_extensions import override

from pcvpt.models.attention import PromptSource

Size = tuple[int, int]


class PromptedWindowAttention(WindowAttention):
    """timm's ``WindowAttention`` with prompts; its own dropouts are off, as the backbone is frozen.

    Attributes:
        source: the block's prompts.
        literal: compute queries, keys and values of the prompts anew in each window, and every
            row; otherwise once for each image (once for a batch whose images share the prompts),
            and only the rows that are read.
    """

    source: PromptSource
    literal: bool

    @override
    def forward(  # type: ignore[override]
        self, x: Tensor, prompts: Tensor, mask: Tensor | None = None, returned: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within each window and to the prompts.

        Args:
            x: normalised patches ``(b, w, n, d)``.
            prompts: normalised prompts ``(b or 1, p, d)``.
            mask: of shifted windows ``(w, n, n)``, None where they are not.
            returned: also compute what the prompts attend to.

        Returns:
            The patches' output ``(b, w, n, d)``, and the prompts' ``(b, p, d)``, the mean over
            windows; None unless ``returned`` or in the literal form.
        """
        q, k, v, bias = self.project(x, prompts, mask, returned)
        batch, windows, heads, rows, _ = q.shape
        patches = x.shape[2]
        if bias.shape[:2] == (1, 1):
            first, last, bias = 0, 1, bias[0]  # windows join the batch
        else:
            # Windows join the heads, so that the bias of all windows is not copied for each image.
            first, last = 1, 2
            bias = bias.expand(-1, windows, heads, -1, -1).flatten(1, 2)
        q, k, v = (part.flatten(first, last) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = y.reshape(batch, windows, heads, rows, -1).transpose(2, 3).flatten(3)
        if self.literal:
            y = self.proj(y)
            return y[:, :, :patches], y[:, :, patches:].mean(1)
        # The projection is affine: that of the mean over windows is the mean of the projections.
        flowing = self.proj(y[:, :, patches:].mean(1)) if returned else None
        return self.proj(y[:, :, :patches]), flowing

    def project(
        self, x: Tensor, prompts: Tensor, mask: Tensor | None = None, returned: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return queries ``(b, w, h, r, c)``, keys and values ``(b, w, h, k, c)``, and their bias.

        The bias is ``(b or 1, w or 1, h, r, k)``. For the arguments see :meth:`forward`.
        """
        batch, windows = x.shape[:2]
        count = prompts.shape[1]
        if self.literal:
            copies = prompts[:, None].expand(batch, windows, -1, -1)
            q, k, v = self._parts(torch.cat([x, copies], dim=2), 0)
        else:
            q, k, v = self._parts(x, 0)
            # One call of attention takes one tensor of keys, so the few prompts are copied into it.
            own = self._parts(prompts[:, None], 0 if returned else 1)
            own = tuple(part.expand(batch, windows, -1, -1, -1) for part in own)
            k, v = torch.cat([k, own[-2]], dim=3), torch.cat([v, own[-1]], dim=3)
            q = torch.cat([q, own[0]], dim=3) if returned else q
        bias = self._get_rel_pos_bias()[:, None]
        if mask is not None:
            # Older timm has too few masks where patches are merged on an odd grid; it repeats them.
            bias = bias + mask.repeat(windows // len(mask), 1, 1)[None, :, None]
        bias = F.pad(bias, (0, count, 0, q.shape[3] - x.shape[2]))
        log_gate = self.source.bank.log_gate(self.source.layer)
        if log_gate is not None:
            bias = bias + F.pad(log_gate, (x.shape[2], 0))[:, None, None, None]
        return q, k, v, bias

    def attention_map(
        self, x: Tensor, prompts: Tensor, mask: Tensor | None = None, returned: bool = False
    ) -> Tensor:
        """Return the softmax weights ``(b, w·h, r, k)``; the last columns are the prompts'.

        For the arguments see :meth:`forward`.
        """
        q, k, _, bias = self.project(x, prompts, mask, returned)
        weights: Tensor = (self.scale * q @ k.transpose(-2, -1) + bias).softmax(dim=-1)
        return weights.flatten(1, 2)

    def _parts(self, x: Tensor, first: int) -> tuple[Tensor, ...]:
        """Apply (query, key, value) from ``first`` on to ``(b, w, n, d)``: each (b, w, h, n, c)."""
        size = self.qkv.weight.shape[0] // 3
        bias = None if self.qkv.bias is None else self.qkv.bias[first * size :]
        y = F.linear(x, self.qkv.weight[first * size :], bias)
        split: Tensor = y.unflatten(3, (3 - first, self.num_heads, -1))  # b w n parts h c
        return split.permute(3, 0, 1, 4, 2, 5).unbind(0)


def into_windows(x: Tensor, window: Size, shift: Size) -> Tensor:
    """Cut images ``(b, height, width, d)`` into windows ``(b, w, n, d)``, each image's in a row.

    Args:
        x: patches; padded with zeros at the end to a multiple of the window.
        window: height and width of a window.
        shift: by how much the image is rolled first.
    """
    batch, height, width, _ = x.shape
    if any(shift):
        x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
    x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    windows: Tensor = window_partition(x, window)
    return windows.view(batch, -1, window[0] * window[1], x.shape[3])


def from_windows(y: Tensor, window: Size, shift: Size, size: Size) -> Tensor:
    """Undo :func:`into_windows`: return the ``size[0]`` × ``size[1]`` patches of each image."""
    height, width = size
    padded = height + -height % window[0], width + -width % window[1]
    x: Tensor = window_reverse(y.flatten(0, 1).unflatten(1, window), window, *padded)
    x = x[:, :height, :width]
    return torch.roll(x, shift, (1, 2)) if any(shift) else x

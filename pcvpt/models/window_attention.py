"""Window attention that also attends to prompts.

In Swin with prompts, as in the release of Visual Prompt Tuning (Jia et al., ECCV 2022), each window
attends to its own patches and to the same prompts. A prompt has no position: its rows and columns
of the relative position bias and of the shift mask are zero. The output
at a prompt is averaged over the windows of the same image. (In the release's Shallow mode the
prompts of a batch are laid out by window where the windows are laid out by image, so images of a
batch mix. pcvpt keeps images separate.)

Axes: b batch, w windows of an image, n patches of a window, p prompts, r query rows,
k keys (n + p), h heads, d width, c head width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from torch import Tensor
from typing_extensions import override

from pcvpt.models.joint_attention import JointAttention, with_prompt_bias
from pcvpt.models.prompt_keys_values import PromptKeysValues, PromptSource

Size = tuple[int, int]


class PromptedWindowAttention(PromptKeysValues, WindowAttention):
    """timm's ``WindowAttention`` with prompts; its own dropouts are off, as the backbone is frozen.

    Attributes:
        source: Prompts of the block.
        literal: Compute queries, keys and values of the prompts again in each window, and every
            row. Otherwise they are computed once for each image (once for a batch whose images
            share the prompts), and only the rows that are read.
    """

    source: PromptSource
    literal: bool

    @override
    def forward(  # type: ignore[override]
        self, x: Tensor, prompts: Tensor | None, mask: Tensor | None = None, returned: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within each window and to the prompts.

        Args:
            x: Normalised patches ``(b, w, n, d)``.
            prompts: Prompts as :meth:`prompt_keys_values` takes them; None where they are frozen.
            mask: Attention mask of shifted windows ``(w, n, n)``; None where they are not shifted.
            returned: Compute the output at the prompts, too.

        Returns:
            Output at the patches ``(b, w, n, d)``, and output at the prompts ``(b, p, d)``, the
            mean over windows. The latter is None unless ``returned`` or in the literal form.
        """
        patches = x.shape[2]
        y = self.project(x, prompts, mask, returned).attend(self.is_trained())
        y = y.transpose(2, 3).flatten(3)
        if self.literal:
            y = self.proj(y)
            return y[:, :, :patches], y[:, :, patches:].mean(1)
        # The projection is affine: that of the mean over windows is the mean of the projections.
        flowing = self.proj(y[:, :, patches:].mean(1)) if returned else None
        return self.proj(y[:, :, :patches]), flowing

    def project(
        self, x: Tensor, prompts: Tensor | None, mask: Tensor | None = None, returned: bool = False
    ) -> JointAttention:
        """Compute queries, keys, values and their bias; for the arguments see :meth:`forward`."""
        batch, windows = x.shape[:2]
        of_prompts = self.source.bias()
        bias = self._get_rel_pos_bias()[:, None]
        if mask is not None:
            # Older timm has too few masks where patches are merged on an odd grid; it repeats them.
            bias = bias + mask.repeat(windows // len(mask), 1, 1)[None, :, None]
        if self.literal and prompts is not None:
            copies = prompts[:, None].expand(batch, windows, -1, -1)
            q, k, v = self.project_parts(torch.cat([x, copies], dim=2), 0, 3)
            bias = F.pad(bias, (0, prompts.shape[1], 0, prompts.shape[1]))
            return JointAttention(q, k, v, bias=with_prompt_bias(bias, k.shape[3], *of_prompts))
        q, k, v = self.project_parts(x, 0, 3)
        if returned and prompts is not None:
            (own,) = self.project_parts(prompts[:, None], 0, 1)
            q = torch.cat([q, own.expand(batch, windows, -1, -1, -1)], dim=3)
            bias = F.pad(bias, (0, 0, 0, prompts.shape[1]))
        # Those of no prompts too, so that distributed training finds a gradient of every parameter.
        prompt_k, prompt_v = self.prompt_keys_values(prompts, v) or (None, None)
        return JointAttention(q, k, v, prompt_k, prompt_v, bias, *of_prompts)

    def attention_map(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the softmax weights ``(b, w·h, r, k)``, prompts last, of :meth:`project`."""
        return self.project(x, *args, **kwargs).weights().flatten(1, 2)


def into_windows(x: Tensor, window: Size, shift: Size) -> Tensor:
    """Cut images ``(b, height, width, d)`` into windows ``(b, w, n, d)``.

    Args:
        x: Patches. They are padded with zeros at the end to a multiple of the window.
        window: Height and width of a window, in patches.
        shift: Patches by which the image is rolled up and left first.
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

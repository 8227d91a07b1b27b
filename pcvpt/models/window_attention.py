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

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention
from torch import Tensor
from typing_extensions import override

from pcvpt.models.joint_attention import ConstantBias, JointAttention, pair, with_prompt_bias
from pcvpt.models.prompt_keys_values import PromptKeysValues


class PromptedWindowAttention(PromptKeysValues, WindowAttention):
    """timm's ``WindowAttention`` with prompts; its own dropouts are off, as the backbone is frozen.

    Attributes:
        literal: Compute queries, keys and values of the prompts again in each window, and every
            row. Otherwise they are computed once for each image (once for a batch whose images
            share the prompts), and only the rows that are read.
    """

    literal: bool
    _held: tuple[Tensor, Tensor | None, Any, ConstantBias] | None = None

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
        y = y[:, :, :patches]
        by_patch = y.transpose(1, 2)
        # A GPU's attention may return the patches first. Merging reads windows first, by a hook.
        windows_first = y.is_contiguous() or self.proj._forward_pre_hooks
        if by_patch.is_contiguous() and not windows_first:
            return self.proj(by_patch).transpose(1, 2), flowing
        return self.proj(y), flowing

    def project(
        self, x: Tensor, prompts: Tensor | None, mask: Tensor | None = None, returned: bool = False
    ) -> JointAttention:
        """Compute queries, keys, values and their bias; for the arguments see :meth:`forward`."""
        batch, windows = x.shape[:2]
        of_prompts = self.source.bias()
        bias, constant = self._bias(mask, windows)
        if self.literal and prompts is not None:
            copies = prompts[:, None].expand(batch, windows, -1, -1)
            q, k, v = self.project_parts(torch.cat([x, copies], dim=2), 0, 3)
            bias = F.pad(bias, (0, prompts.shape[1], 0, prompts.shape[1]))
            return JointAttention(q, k, v, bias=with_prompt_bias(bias, k.shape[3], *of_prompts))
        q, k, v, both = self.project_tokens(x)
        if returned and prompts is not None:
            (own,) = self.project_parts(prompts[:, None], 0, 1)
            q = torch.cat([q, own.expand(batch, windows, -1, -1, -1)], dim=3)
            bias = F.pad(bias, (0, 0, 0, prompts.shape[1]))
        # Those of no prompts too, so that distributed training finds a gradient of every parameter.
        found = self.prompt_keys_values(prompts, v)
        prompt_k, prompt_v = (None, None) if found is None else found
        joint = pair(both, found), None if returned else constant
        return JointAttention(q, k, v, prompt_k, prompt_v, bias, *of_prompts, *joint)

    def _bias(self, mask: Tensor | None, windows: int) -> tuple[Tensor, ConstantBias | None]:
        """Return relative position bias and mask, and what keeps them while nothing changes."""
        table, held = self.relative_position_bias_table, self._held
        changes = torch.compiler.is_compiling() or table.requires_grad or table.is_inference()
        version = None if changes else (table._version, table.device, table.dtype, windows)
        if not changes and held and held[0] is table and held[1] is mask and held[2] == version:
            return held[3].tensor, held[3]
        with nullcontext() if changes else torch.inference_mode(False):
            bias: Tensor = self._get_rel_pos_bias()[:, None]
            if mask is not None:
                # Older timm has too few masks where patches are merged on an odd grid.
                bias = bias + mask.repeat(windows // len(mask), 1, 1)[None, :, None]
        if changes:
            return bias, None
        self._held = table, mask, version, ConstantBias(bias)
        return bias, self._held[3]

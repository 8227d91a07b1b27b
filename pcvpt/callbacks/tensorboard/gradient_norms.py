"""Norms of the gradients of prompts, computed without synchronising a step with the host.

Axes: l layers, p prompts, d width.
"""

import torch
from torch import Tensor

from pcvpt.models import PromptBank


class GradientNorms:
    """Mean over steps of the norm of each layer's gradient, kept on the device until it is read."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._steps = 0

    @torch.no_grad()
    def add(self, bank: PromptBank) -> None:
        """Add the present gradients ``(l, p, d)`` of the prompts."""
        if self._sums is None:
            self._sums = torch.zeros(len(bank.keep), dtype=torch.float32, device=bank.device)
        for layers, values in bank.runs():
            if values.grad is not None:
                self._sums[layers] += values.grad.float().flatten(1).norm(dim=1)
        self._steps += 1

    def read_mean(self) -> Tensor | None:
        """Return the means ``(l,)`` since the last call, on the CPU; None without a step."""
        sums, steps = self._sums, self._steps
        self._sums, self._steps = None, 0
        return None if sums is None else sums.cpu() / steps

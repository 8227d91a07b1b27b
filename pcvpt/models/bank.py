"""The prompts of a model: their values, which of them are kept, and the gate that scores them.

Axes: b batch, l layers (groups of prompts: one per block in Deep, one in all in Shallow),
p prompts per layer, d width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self, override

from pcvpt.errors import UsageError


class PromptBank(nn.Module):
    """All prompts of a model in one parameter, with a mask of those kept.

    Shapes never change while training: a masked prompt is left out by index, so it really leaves
    the computation, while optimizers, checkpoints and distributed strategies see the same tensors.
    Layers may keep different numbers of prompts, none included.

    Args:
        layers: number of prompted layers l, at least 0.
        prompts: prompts per layer p, at least 0 (0: a linear probe).
        width: embedding width d of the blocks.
        init_bound: prompts start uniform in ±init_bound (Jia et al., ECCV 2022, section 3).
        dropout: probability in [0, 1) with which each element of a prompt is zeroed, separately
            for each image, while training.

    Attributes:
        values: parameter ``(l, p, d)``.
        keep: boolean buffer ``(l, p)``; False where a prompt is condensed away.
        scores: buffer ``(l, p)`` with the importance found by the last condensation, NaN before.
    """

    values: nn.Parameter
    keep: Tensor
    scores: Tensor

    def __init__(
        self, layers: int, prompts: int, width: int, init_bound: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.values = nn.Parameter(
            torch.empty(layers, prompts, width).uniform_(-init_bound, init_bound)
        )
        self.register_buffer("keep", torch.ones(layers, prompts, dtype=torch.bool))
        self.register_buffer("scores", torch.full((layers, prompts), float("nan")))
        self._log_gate: Tensor | None = None  # (b or 1, l, p), only while scoring
        self._kept_index: list[Tensor | None] | None = None
        self._kept_version = (0, -1)  # which mask, and which state of it

    @override
    def forward(self, layer: int, batch: int) -> Tensor:
        """Return the kept prompts of ``layer``: ``(p, d)``, or ``(b, p, d)`` under dropout."""
        values = self.values[layer]
        index = self._index(layer)
        if index is not None:
            values = values[index]
        if self.training and self.dropout > 0:
            return F.dropout(values.expand(batch, *values.shape), self.dropout)
        return values

    def count(self, layer: int) -> int:
        """Return how many prompts ``layer`` keeps."""
        index = self._index(layer)
        return self.values.shape[1] if index is None else len(index)

    def counts(self) -> list[int]:
        """Return the number of kept prompts of each layer."""
        return [self.count(layer) for layer in range(self.values.shape[0])]

    def apply_mask(self, keep: Sequence[Tensor]) -> None:
        """Keep only the prompts marked True; the values of the others stay as they are.

        Args:
            keep: one boolean ``(p,)`` tensor per layer.

        Raises:
            UsageError: when the shapes are not those of the bank.
        """
        shapes = [tuple(mask.shape) for mask in keep]
        layers, prompts = self.keep.shape
        if shapes != [(prompts,)] * layers:
            raise UsageError(
                f"the mask has shapes {shapes}; this model has {layers} layers of {prompts} prompts"
            )
        if layers:
            self.keep.copy_(torch.stack(list(keep)))

    @contextmanager
    def gated(self, log_gate: Tensor) -> Iterator[None]:
        """Multiply the attention weight of each prompt by exp(``log_gate``) within this context.

        Args:
            log_gate: ``(b or 1, l, p)``. 0 is the model as it is, -inf is exact removal of a
                prompt; in Shallow, where one prompt is a column of every block, all its columns
                share one gate.
        """
        self._log_gate = log_gate
        try:
            yield
        finally:
            self._log_gate = None

    def log_gate(self, layer: int) -> Tensor | None:
        """Return the gate ``(b or 1, p)`` of the kept prompts of ``layer`` while scoring."""
        if self._log_gate is None:
            return None
        gate = self._log_gate[:, layer]
        index = self._index(layer)
        return gate if index is None else gate[:, index]

    def _index(self, layer: int) -> Tensor | None:
        """Return the positions of the kept prompts of ``layer``, None when all are kept."""
        version = (id(self.keep), self.keep._version)  # a deep copy has a mask of its own
        if self._kept_index is None or self._kept_version != version:
            self._kept_version = version
            # Validation runs in inference mode; its tensors could not be used by autograd later.
            with torch.inference_mode(False):
                self._kept_index = [
                    None if bool(mask.all()) else mask.clone().nonzero().squeeze(1)
                    for mask in self.keep
                ]
        return self._kept_index[layer]

    @override
    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._kept_index = None  # the positions live on the device of the mask
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    @override
    def extra_repr(self) -> str:
        layers, prompts, width = self.values.shape
        return f"layers={layers}, prompts={prompts}, width={width}, kept={int(self.keep.sum())}"

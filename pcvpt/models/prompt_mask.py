"""Which prompts of a model are kept.

Axes: l layers (groups of prompts), p prompts per layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import Self, override

from pcvpt.errors import UsageError


class PromptMask(nn.Module):
    """The mask of the prompts that are kept, and their positions.

    Attributes:
        keep: Boolean buffer ``(l, p)``, False where a prompt is condensed away.
        frozen: Whether keys and values of the prompts are cached, so that neither may change.
    """

    keep: Tensor

    def __init__(self, layers: int, prompts: int) -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones(layers, prompts, dtype=torch.bool))
        self.frozen = False
        self._kept_version = (0, -1)  # mask of the positions below, and its version
        self._kept: dict[int, Tensor] = {}  # by layers that do not keep all
        self._positions: dict[int, Tensor] = {}  # of the kept prompts in runs of layers

    @property
    def device(self) -> torch.device:
        """The device of the prompts."""
        return self.keep.device

    def count(self, layer: int) -> int:
        """Return the number of kept prompts of ``layer``."""
        index = self.index(layer)
        return self.keep.shape[1] if index is None else len(index)

    def counts(self) -> list[int]:
        """Return the number of kept prompts of each layer."""
        return [self.count(layer) for layer in range(len(self.keep))]

    def apply_mask(self, keep: Sequence[Tensor]) -> None:
        """Keep only the prompts marked True in a boolean tensor ``(p,)`` for each layer.

        The values of the others stay as they are.

        Raises:
            UsageError: If the shapes are not those of the bank, or the prompts are frozen.
        """
        shapes = [tuple(mask.shape) for mask in keep]
        layers, prompts = self.keep.shape
        if shapes != [(prompts,)] * layers:
            raise UsageError(
                f"the mask has shapes {shapes}; this model has {layers} layers of {prompts} prompts"
            )
        self.require_thawed()
        if layers:
            self.keep.copy_(torch.stack(list(keep)))
            self.note_mask()

    def require_thawed(self) -> None:
        """Raise a UsageError if the prompts are frozen: cached keys and values would not follow."""
        if self.frozen:
            raise UsageError("the prompts are frozen; take a copy made before freeze_prompts()")

    def index(self, layer: int) -> Tensor | None:
        """Return the positions of the kept prompts of ``layer``, None when all are kept."""
        # A compiled graph contains the positions as constants: it can't read a mask.
        if not torch.compiler.is_compiling():
            self.note_mask()
        return self._kept.get(layer)

    def positions(self, layers: slice) -> Tensor | None:
        """Return the positions ``(layers, p)`` of kept prompts among all of ``layers``.

        Each layer has as many as the one with the most, the last of them of any prompt. None
        where all are kept.
        """
        index = [self.index(layer) for layer in range(layers.start, layers.stop)]
        if all(own is None for own in index):
            return None
        if layers.start not in self._positions:
            count = self.keep.shape[1]
            with torch.inference_mode(False):
                every = torch.arange(count, device=self.device)
                found = [i * count + (every if own is None else own) for i, own in enumerate(index)]
                self._positions[layers.start] = pad_sequence(found, batch_first=True)
        return self._positions[layers.start]

    def note_mask(self) -> None:
        """Update the positions of the kept prompts if the mask has changed.

        A call is needed only where the mask was changed in place, and not by :meth:`apply_mask` or
        a state dict, before a compiled graph is used.
        """
        # A deep copy has another mask; a mask made in inference mode has no version.
        version = (id(self.keep), 0 if self.keep.is_inference() else self.keep._version)
        if self._kept_version == version or self.keep.is_meta:
            return
        self._kept_version, self._positions = version, {}
        # Validation runs in inference mode; its tensors could not be used by autograd later.
        with torch.inference_mode(False):
            self._kept = {
                layer: mask.nonzero().squeeze(1).to(self.device)
                for layer, mask in enumerate(self.keep.cpu().clone())
                if not mask.all()
            }

    @override
    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._kept_version = (0, -1)  # the positions live on the device of the mask
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.note_mask()
        return self

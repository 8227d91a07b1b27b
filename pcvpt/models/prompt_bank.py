"""The prompts of a model: their values, the mask of those kept, and the gate that scores them.

Axes: b batch, l layers (groups of prompts: one per block in Deep, one in all in Shallow),
p prompts per layer, d width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self, override

from pcvpt.errors import UsageError


class PromptBank(nn.Module):
    """All prompts of a model, with a mask of those kept.

    The values are one parameter, ``values``, when all layers have one width. In a hierarchical
    backbone there is one for each run of neighbouring layers of one width, ``values_0``,
    ``values_1``, ...; :meth:`runs` returns them in either case.

    Shapes never change while training: a masked prompt is left out by index, so it really leaves
    the computation, while optimizers, checkpoints and distributed strategies see the same tensors.
    Layers may keep different numbers of prompts, none included.

    Args:
        layers: Number of prompted layers l, at least 0.
        prompts: Number of prompts per layer p, at least 0. It is 0 in a linear probe.
        width: Embedding width d of the blocks, one for each layer where they differ.
        init_bound: Bound of the uniform distribution in ±init_bound from which prompts are drawn
            (Jia et al., ECCV 2022, section 3).
        dropout: Probability in [0, 1) with which each element of a prompt is zeroed in training.
        shared_dropout: Zero the same elements for all images of a batch. Default: elements are
            drawn for each image.

    Attributes:
        values: Parameter ``(l, p, d)``. It exists only where all layers have one width.
        keep: Boolean buffer ``(l, p)``, False where a prompt is condensed away.
        scores: Buffer ``(l, p)`` of scores of the last condensation, NaN before.
        frozen: Whether keys and values of the prompts are cached, so that neither may change.
    """

    values: nn.Parameter
    keep: Tensor
    scores: Tensor

    def __init__(
        self,
        layers: int,
        prompts: int,
        width: int | Sequence[int],
        init_bound: float,
        dropout: float = 0.0,
        shared_dropout: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.shared_dropout = dropout, shared_dropout
        widths = [width] * layers if isinstance(width, int) else list(width)
        if len(widths) != layers:
            raise ValueError(f"{len(widths)} widths for {layers} layers")
        sizes = [(sum(1 for _ in run), d) for d, run in groupby(widths)]
        if not sizes:  # a linear probe
            sizes = [(0, width if isinstance(width, int) else 0)]
        self._runs: dict[str, slice] = {}
        self._places: list[tuple[str, int]] = []  # parameter and row of each layer
        for i, (length, d) in enumerate(sizes):
            name, first = f"values_{i}" if len(sizes) > 1 else "values", len(self._places)
            values = torch.empty(length, prompts, d).uniform_(-init_bound, init_bound)
            self.register_parameter(name, nn.Parameter(values))
            self._runs[name] = slice(first, first + length)
            self._places += [(name, row) for row in range(length)]
        self.register_buffer("keep", torch.ones(layers, prompts, dtype=torch.bool))
        self.register_buffer("scores", torch.full((layers, prompts), float("nan")))
        self.frozen = False
        self._log_gate: Tensor | None = None  # (b or 1, l, p), only while scoring
        self._kept_version = (0, -1)  # mask of the positions below, and its version
        self._kept: list[Tensor | None] = [None] * layers

    @override
    def forward(self, layer: int, batch: int) -> Tensor:
        """Return the kept prompts ``(p, d)`` of ``layer``, or ``(b, p, d)`` under dropout."""
        values = self.layer_values(layer)
        index = self._index(layer)
        if index is not None:
            values = values[index]
        if self.training and self.dropout > 0:
            copies = () if self.shared_dropout else (batch,)
            return F.dropout(values.expand(*copies, *values.shape), self.dropout)
        return values

    def runs(self) -> list[tuple[slice, nn.Parameter]]:
        """Return each run of layers of one width, with its values ``(layers of the run, p, d)``."""
        return [(layers, self.get_parameter(name)) for name, layers in self._runs.items()]

    @property
    def stages(self) -> list[int]:
        """The stage of each layer: 0 for all where they have one width."""
        names = list(self._runs)
        return [names.index(name) for name, _ in self._places]

    def layer_values(self, layer: int) -> Tensor:
        """Return the values ``(p, d)`` of all prompts of ``layer``, masked ones included."""
        name, row = self._places[layer]
        values: Tensor = getattr(self, name)
        return values[row]

    def stack(self, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """Return the values of all layers as ``(l, p, widest d)``, padded with zeros.

        The padding does not change norms and inner products of prompts.

        Args:
            tensors: Tensors to stack instead, for example gradients, one for each parameter in the
                order of ``parameters()``.
        """
        parts = list(self.parameters()) if tensors is None else tensors
        widest = max(part.shape[2] for part in parts)
        return torch.cat([F.pad(part, (0, widest - part.shape[2])) for part in parts])

    @property
    def device(self) -> torch.device:
        """The device of the prompts."""
        return self.keep.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the prompts' values."""
        return self.runs()[0][1].dtype

    def snapshot(self) -> list[Tensor]:
        """Return a copy of the values, for :meth:`restore`."""
        return [values.detach().clone() for values in self.parameters()]

    @torch.no_grad()
    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Set the values, masked ones included, to those of an earlier :meth:`snapshot`."""
        self.require_thawed()
        for values, earlier in zip(self.parameters(), snapshot, strict=True):
            values.copy_(earlier)

    def count(self, layer: int) -> int:
        """Return the number of kept prompts of ``layer``."""
        index = self._index(layer)
        return self.keep.shape[1] if index is None else len(index)

    def counts(self) -> list[int]:
        """Return the number of kept prompts of each layer."""
        return [self.count(layer) for layer in range(len(self.keep))]

    def apply_mask(self, keep: Sequence[Tensor]) -> None:
        """Keep only the prompts marked True; the values of the others stay as they are.

        Args:
            keep: One boolean tensor ``(p,)`` per layer.

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

    @torch.inference_mode(False)
    @torch.no_grad()
    def drop_masked(self) -> None:
        """Remove the masked prompts; p becomes the largest number that a layer keeps.

        The kept prompts move to the front of their layer, in their order.
        """
        counts = self.keep.sum(1, keepdim=True)
        prompts = max(self.counts(), default=0)
        keep = torch.arange(prompts, device=self.device) < counts
        order = (~self.keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :prompts]
        for (layers, values), name in zip(self.runs(), self._runs, strict=True):
            front = values.take_along_dim(order[layers, :, None], dim=1)
            front *= keep[layers, :, None]
            setattr(self, name, nn.Parameter(front, requires_grad=values.requires_grad))
        self.scores = self.scores.take_along_dim(order, dim=1).masked_fill(~keep, float("-inf"))
        self.keep = keep
        self.note_mask()

    def require_thawed(self) -> None:
        """Raise a UsageError if the prompts are frozen: cached keys and values would not follow."""
        if self.frozen:
            raise UsageError("the prompts are frozen; take a copy made before freeze_prompts()")

    @contextmanager
    def gated(self, log_gate: Tensor) -> Iterator[None]:
        """Multiply the attention weight of each prompt by exp(``log_gate``) within this context.

        Args:
            log_gate: Logarithm of the gate ``(b or 1, l, p)``. 0 leaves the model unchanged, -inf
                removes a prompt exactly. In Shallow, where one prompt is a column of every block,
                all its columns share one gate.
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
        # A compiled graph contains the positions as constants: it can't read a mask.
        if not torch.compiler.is_compiling():
            self.note_mask()
        return self._kept[layer]

    def note_mask(self) -> None:
        """Update the positions of the kept prompts if the mask has changed.

        A call is needed only where the mask was changed in place, and not by :meth:`apply_mask` or
        a state dict, before a compiled graph is used.
        """
        # A deep copy has another mask; a mask made in inference mode has no version.
        version = (id(self.keep), 0 if self.keep.is_inference() else self.keep._version)
        if self._kept_version == version or self.keep.is_meta:
            return
        self._kept_version = version
        # Validation runs in inference mode; its tensors could not be used by autograd later.
        with torch.inference_mode(False):
            self._kept = [
                None if bool(mask.all()) else mask.nonzero().squeeze(1).to(self.device)
                for mask in self.keep.cpu().clone()
            ]

    @override
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.note_mask()

    @override
    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._kept_version = (0, -1)  # the positions live on the device of the mask
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.note_mask()
        return self

    @override
    def extra_repr(self) -> str:
        (layers, prompts), runs = self.keep.shape, self.runs()
        width = ", ".join(dict.fromkeys(str(values.shape[2]) for _, values in runs))
        return f"layers={layers}, prompts={prompts}, width={width}, kept={int(self.keep.sum())}"

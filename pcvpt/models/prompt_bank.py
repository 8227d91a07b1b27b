"""The prompts of a model: their values, the mask of those kept, and the gate that scores them.

Axes: b batch, l layers (groups of prompts: one per block in Deep, one in all in Shallow),
p prompts per layer, d width, h heads (of the layer with the most), c head width.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.errors import UsageError
from pcvpt.models.prompt_mask import PromptMask
from pcvpt.models.temporary import changed

Form = Literal["token", "key_value"]


class MergedLayer(NamedTuple):
    """The k prompts that one layer has after a merge.

    ``cost`` is the estimated effect on the predictions: the mean Kullback-Leibler divergence from
    the predictions before, in nats.
    """

    values: Tensor  # tokens (k, d), or keys and values (k, 2hc): those of all heads each
    log_weight: Tensor  # bias of the scores (h or 1, k): log n for n equal prompts that became one
    assignment: Tensor  # merged prompt that each became, in each head (h or 1, p); -1 if dropped
    cost: float


class PromptBank(PromptMask):
    """All prompts of a model, with a mask of those kept.

    The values are one parameter, ``values`` ``(l, p, d)``, when all layers have one width. In a
    hierarchical backbone there is one for each run of neighbouring layers of one width,
    ``values_0``, ``values_1``, ...; :meth:`runs` returns them in either case.

    Shapes never change while training: a masked prompt is left out by index, so it really leaves
    the computation, while optimizers, checkpoints and distributed strategies see the same tensors.

    Args:
        layers: Number of prompted layers l, at least 0.
        prompts: Number of prompts per layer p, at least 0. It is 0 in a linear probe.
        widths: Embedding width d of each block; those of the layers are the first of them.
        init_bound: Bound of the uniform distribution in ±init_bound from which prompts are drawn
            (Jia et al., ECCV 2022, section 3).
        dropout: Probability in [0, 1) with which each element of a prompt is zeroed in training.

    Attributes:
        stages: The stage of each layer: 0 for all where they have one width.
        shared_dropout: Zero the same elements for all images of a batch. Default: elements are
            drawn for each image.
        scores: Buffer ``(l, p)`` of scores of the last condensation, NaN before.
        form: What a prompt is: "token", which passes the block's LayerNorm and projection, or
            "key_value", whose values ``(l, p, 2hc)`` are the keys of all heads, then the values.
        log_weight: Buffer ``(l, h or 1, p)`` with the bias of the attention scores that merged
            prompts have; None before a merge.
        assignment: Buffer ``(l, h or 1, p)`` as in :class:`MergedLayer`; None before a merge.
        heads: Heads and head width (h, c) of each layer, set by the model. Empty where prompts flow
            through the blocks, so that they must be tokens.
        why_tokens: Why the prompts can't be keys and values, set by the model; None if they can.
        log_gate: Gate ``(b or 1, l, p)`` within :meth:`gated`, else None.
    """

    values: nn.Parameter
    scores: Tensor
    log_weight: Tensor | None
    assignment: Tensor | None

    def __init__(
        self,
        layers: int,
        prompts: int,
        widths: Sequence[int],
        init_bound: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(layers, prompts)
        self.dropout, self.shared_dropout = dropout, False
        self._token_widths = list(widths[:layers])
        sizes = [(len([*run]), d) for d, run in groupby(self._token_widths)] or [(0, widths[0])]
        self.stages: list[int] = []
        self._runs: dict[str, slice] = {}
        for i, (length, d) in enumerate(sizes):
            name, first = f"values_{i}" if len(sizes) > 1 else "values", len(self.stages)
            values = torch.empty(length, prompts, d).uniform_(-init_bound, init_bound)
            self.register_parameter(name, nn.Parameter(values))
            self._runs[name] = slice(first, first + length)
            self.stages += [i] * length
        self.register_buffer("scores", torch.full((layers, prompts), float("nan")))
        self.register_buffer("log_weight", None)
        self.register_buffer("assignment", None)
        self.form: Form = "token"
        self.heads: list[tuple[int, int]] = []
        self.why_tokens: str | None = None
        self.log_gate: Tensor | None = None
        # Of each layer, within :func:`pcvpt.models.prompts_at_once.at_once`: kept prompts (p, d),
        # or their keys and values (b or 1, p, 2hc), and what that computes them with.
        self.taken: list[Tensor] = []
        self.projected: list[Tensor] = []
        self.stacks: Any = None

    @override
    def forward(self, layer: int, batch: int) -> Tensor:
        """Return the kept prompts ``(p, d)`` of ``layer``, or ``(b, p, d)`` under dropout.

        Here and below d is 2hc for prompts of the form "key_value".
        """
        if self.taken:
            return self.drop(self.taken[layer], batch)
        values, index = self.layer_values(layer), self.index(layer)
        return self.drop(values if index is None else values[index], batch)

    def drop(self, values: Tensor, batch: int) -> Tensor:
        """Return ``values`` ``(..., d)``, under dropout one copy for each image ``(b, ..., d)``."""
        if not (self.training and self.dropout > 0):
            return values
        copies = () if self.shared_dropout else (batch,)
        return F.dropout(values.expand(*copies, *values.shape), self.dropout)

    def runs(self) -> list[tuple[slice, nn.Parameter]]:
        """Return each run of layers of one width, with its values ``(layers of the run, p, d)``."""
        return [(layers, self.get_parameter(name)) for name, layers in self._runs.items()]

    def layer_values(self, layer: int) -> Tensor:
        """Return the values ``(p, d)`` of all prompts of ``layer``, masked ones included."""
        name, layers = list(self._runs.items())[self.stages[layer]]
        values: Tensor = getattr(self, name)
        return values[layer - layers.start]

    def stack(self, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """Return the values of all layers as ``(l, p, widest d)``, padded with zeros.

        The padding does not change norms and inner products of prompts. Other ``tensors``, one for
        each of ``parameters()``, such as their gradients, can be stacked instead.
        """
        parts = list(self.parameters()) if tensors is None else tensors
        widest = max(part.shape[2] for part in parts)
        return torch.cat([F.pad(part, (0, widest - part.shape[2])) for part in parts])

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

    @torch.inference_mode(False)
    @torch.no_grad()
    def apply_merge(self, merged: Sequence[MergedLayer]) -> None:
        """Replace the prompts by merged ones, which stand at the front of their layers.

        They are new parameters: a new optimizer is needed.

        Args:
            merged: Merged prompts of each layer, all of one form; see
                :func:`pcvpt.merge_prompts`.

        Raises:
            UsageError: If they do not fit the bank, the model does not take their form, or the
                prompts are frozen.
        """
        self.require_thawed()
        layers, prompts = self.keep.shape
        widths = [part.values.shape[1] for part in merged]
        form: Form = "token" if widths == self._token_widths else "key_value"
        sizes = [part.assignment.shape[1] for part in merged]
        if widths != self.widths(form) or sizes != [prompts] * layers:
            raise UsageError(
                f"the merge is of {sizes} prompts of widths {widths}; this model has {layers} "
                f"layers of {prompts} prompts, of widths {self._token_widths} as tokens, "
                f"{self.widths('key_value') or 'never'} as keys and values"
            )
        if form == "key_value" and self.why_tokens:
            raise UsageError(self.why_tokens)
        if form == "token" != self.form:
            raise UsageError("the merge is of tokens; this model's prompts are keys and values")
        self.change_form(form)
        shape = (layers, max(len(part.log_weight) for part in merged), prompts)
        self.log_weight = torch.zeros(shape, device=self.device, dtype=self.dtype)
        self.assignment = torch.full(shape, -1, device=self.device, dtype=torch.int32)
        for layer, part in enumerate(merged):
            count, heads = len(part.values), len(part.log_weight)
            self.layer_values(layer)[:count] = part.values
            self.log_weight[layer, :heads, :count] = part.log_weight
            self.assignment[layer, :heads] = part.assignment
        front = torch.arange(prompts)
        self.apply_mask([front < len(part.values) for part in merged])

    @torch.inference_mode(False)
    @torch.no_grad()
    def change_form(self, form: Form) -> None:
        """Replace the parameters by zeros of ``form``; mask and merge stay as they are."""
        widths = self.widths(form)
        for name, layers in self._runs.items():
            values = self.get_parameter(name)
            zeros = values.new_zeros(*values.shape[:2], widths[layers.start])
            setattr(self, name, nn.Parameter(zeros, requires_grad=values.requires_grad))
        self.form = form

    @property
    def tells_forms_apart(self) -> bool:
        """Whether tokens have another width than keys and values, so that a state has one form."""
        return self.widths("key_value")[:1] != self._token_widths[:1]

    def form_in(self, state: Mapping[str, Tensor], prefix: str = "") -> Form | None:
        """Return the form of the prompts below ``prefix`` in a state dict; None without any."""
        values = state.get(prefix + next(iter(self._runs)))
        if values is None:
            return None
        own = self.tells_forms_apart and [values.shape[-1]] == self.widths("key_value")[:1]
        return "key_value" if own else "token"

    def match(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Take the form of the prompts of another bank, below ``prefix`` in a state dict.

        Whether the shapes fit is left to the loading.
        """
        form = self.form_in(state, prefix)
        weight, became = (state.get(prefix + name) for name in ("log_weight", "assignment"))
        if form is None:
            return
        if form != self.form:
            self.change_form(form)
        self.log_weight = self.assignment = None
        if weight is not None:
            self.log_weight = torch.zeros_like(weight, device=self.device, dtype=self.dtype)
        if became is not None:  # an adapter, or a frozen model, has none
            self.assignment = torch.full_like(became, -1, device=self.device)

    def widths(self, form: Form) -> list[int]:
        """Return the width of a prompt of each layer in ``form``; none where that can't be."""
        own = [2 * heads * width for heads, width in self.heads]
        return self._token_widths if form == "token" else own

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
        if self.log_weight is not None:
            self.log_weight = self.log_weight.take_along_dim(order[:, None], dim=2)
        self.assignment = None
        self.keep = keep
        self.note_mask()

    def gated(self, log_gate: Tensor) -> AbstractContextManager[None]:
        """Multiply the attention weight of each prompt by exp(``log_gate``) within this context.

        It is ``(b or 1, l, p)``. 0 leaves the model unchanged, -inf removes a prompt exactly. In
        Shallow, where one prompt is a column of every block, all its columns share one gate.
        """
        return changed([self], "log_gate", log_gate)

    def bias(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """Return the two biases of the kept prompts' columns; None where there is none.

        They are the log weight ``(1, h or 1, p)`` of merged prompts, and the gate ``(b or 1, p)``
        while prompts are scored.
        """
        index = self.index(layer)
        kept = slice(None) if index is None else index
        weight, gate = self.log_weight, self.log_gate
        if weight is not None:
            most = self.heads[layer][0] if self.heads else 1  # other layers may have more
            weight = weight[layer : layer + 1, :most, kept]
        return weight, None if gate is None else gate[:, layer, kept]

    @override
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self.match(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.note_mask()

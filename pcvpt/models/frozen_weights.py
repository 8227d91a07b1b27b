"""Frozen weights in the precision of autocast, cast once and not in each step.

Autocast remembers what it casts of weights that are trained, not of frozen ones. The copies here
are those that it would make, so results are the same, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pcvpt.models.attention import PromptedSelfAttention
from pcvpt.models.prompts_at_once import autocast_type
from pcvpt.models.transformer import PromptedTransformer


class _Cast(NamedTuple):
    """The frozen weight ``own`` of a layer, of a ``version``, and its copy."""

    parameters: dict[str, Any]
    name: str
    own: Tensor
    version: int
    copy: nn.Parameter

    def is_current(self, dtype: torch.dtype) -> bool:
        own, copy = self.own, self.copy
        same = self.parameters.get(self.name) is own and own._version == self.version
        frozen = not own.requires_grad and own.dtype == torch.float32
        return same and frozen and copy.device == own.device and copy.dtype == dtype


class FrozenWeights:
    """Copies of the frozen weights of one model in the precision of autocast."""

    def __init__(self) -> None:
        self._casts: list[_Cast] = []

    @contextmanager
    def cast(self, model: PromptedTransformer) -> Iterator[None]:
        """Let layers of ``model`` use the copies within this context, if autocast is on.

        They are made again after a weight has changed or moved.
        """
        dtype = autocast_type(model.prompts.device.type)
        if dtype is None:
            yield
            return
        if not self._casts or not all(cast.is_current(dtype) for cast in self._casts):
            self._casts = list(_casts(model, dtype))
        for cast in self._casts:
            cast.parameters[cast.name] = cast.copy
        try:
            yield
        finally:
            for cast in self._casts:
                cast.parameters[cast.name] = cast.own


def _casts(model: PromptedTransformer, dtype: torch.dtype) -> Iterator[_Cast]:
    last = model.blocks[-1].attn
    # Which multiplies by the bias itself, in float32.
    apart = last.qkv if isinstance(last, PromptedSelfAttention) else None
    for module in model.modules():
        for name, own in module._parameters.items():
            if not isinstance(module, (nn.Linear, nn.Conv2d)) or own is None or own.requires_grad:
                continue
            if own.dtype != torch.float32 or own.is_inference():
                continue
            if module is not apart or name != "bias":
                with torch.inference_mode(False):  # training may follow an evaluation
                    copy = nn.Parameter(own.detach().to(dtype), requires_grad=False)
                yield _Cast(module._parameters, name, own, own._version, copy)

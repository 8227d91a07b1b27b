"""Features of the image's tokens: every row of them, and no row of a prompt."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models.prompts_at_once import at_once, is_trained_at_once


class ImageFeatures(nn.Module):
    """timm's methods that return features; mixed in before timm's class.

    A prompted forward pass computes only rows that the head reads, and may let prompts flow on.
    """

    # timm's.
    forward_head: Any

    @override
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not x.shape[0]:  # which timm can't always reshape
            return self._logits(x.new_zeros(1, *x.shape[1:]), *args, **kwargs)[:0]
        if is_trained_at_once(self):
            with at_once(self, x.shape[0]):
                return self._logits(x, *args, **kwargs)
        return self._logits(x, *args, **kwargs)

    def _logits(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        features = super().forward_features(x, *args, **kwargs)  # type: ignore[misc]
        logits: Tensor = self.forward_head(features)
        return logits

    def forward_features(self, *args: Any, **kwargs: Any) -> Any:
        """Return the features of all tokens of the image; see timm."""
        with _whole_images(self):
            return super().forward_features(*args, **kwargs)  # type: ignore[misc]

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> Any:
        """Return the features of all tokens of the image after some blocks, too; see timm."""
        with _whole_images(self):
            return super().forward_intermediates(*args, **kwargs)  # type: ignore[misc]


@contextmanager
def _whole_images(model: Any) -> Iterator[None]:
    """Let blocks, in Swin stages, return all rows of the image alone; prompts flow on aside."""
    aside: list[Tensor] = []

    def join(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if aside:
            flow = args[0], aside.pop()
            args = (flow if flow[0].ndim == 4 else torch.cat(flow, dim=1), *args[1:])
        return args

    def divide(part: nn.Module, _: Any, output: Any) -> Tensor:
        image, prompts = output, None
        if isinstance(output, tuple):  # of a Swin
            image, prompts = output
        elif model.mode == "shallow" and not getattr(part, "removes", True):
            count = model.prompts.count(0)
            image, prompts = output.split([output.shape[1] - count, count], dim=1)
        if prompts is not None:
            aside.append(prompts)
        features: Tensor = image
        return features

    last = model.blocks[-1]
    with without_checkpointing(model), ExitStack() as stack:
        if getattr(last, "pooled_rows", None) is not None:
            stack.callback(setattr, last, "pooled_rows", last.pooled_rows)
            last.pooled_rows = None
        for part in getattr(model, "layers", model.blocks):
            stack.callback(part.register_forward_pre_hook(join).remove)
            stack.callback(part.register_forward_hook(divide).remove)
        yield


@contextmanager
def without_checkpointing(model: Any) -> Iterator[None]:
    """Compute each block once within this context: a second time, hooks would be called again."""
    parts = [part for part in model.modules() if getattr(part, "grad_checkpointing", False)]
    for part in parts:
        part.grad_checkpointing = False
    try:
        yield
    finally:
        for part in parts:
            part.grad_checkpointing = True

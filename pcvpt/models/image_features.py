"""Features of the image's tokens: every row of them, and no row of a prompt."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pcvpt.models.temporary import changed, without_checkpointing


@contextmanager
def whole_images(model: Any) -> Iterator[None]:
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
            stack.enter_context(changed([last], "pooled_rows", None))
        for part in getattr(model, "layers", model.blocks):
            stack.enter_context(part.register_forward_pre_hook(join))
            stack.enter_context(part.register_forward_hook(divide))
        yield

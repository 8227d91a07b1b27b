"""Changes of a model that last as long as a context."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def changed(parts: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    """Give an attribute of each of ``parts`` another value within this context."""
    before = [(part, getattr(part, name)) for part in parts]
    for part, _ in before:
        setattr(part, name, value)
    try:
        yield
    finally:
        for part, own in before:
            setattr(part, name, own)


def without_checkpointing(model: nn.Module) -> AbstractContextManager[None]:
    """Compute each block once within this context: a second time, hooks would be called again."""
    parts = [part for part in model.modules() if hasattr(part, "grad_checkpointing")]
    return changed(parts, "grad_checkpointing", False)


@contextmanager
def whole_images(model: Any) -> Iterator[None]:
    """Let blocks, in Swin stages, return all rows of the image alone; prompts flow on aside."""
    aside: list[Tensor] = []

    def join(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if aside:
            flow = args[0], aside.pop()
            args = (flow if flow[0].ndim == 4 else torch.cat(flow, dim=1), *args[1:])
        return args

    def divide(part: nn.Module, _: Any, output: Any) -> Any:
        image, prompts = output, None
        if isinstance(output, tuple):  # of a Swin
            image, prompts = output
        elif model.mode == "shallow" and not getattr(part, "removes", True):
            count = model.prompts.count(0)
            image, prompts = output.split([output.shape[1] - count, count], dim=1)
        if prompts is not None:
            aside.append(prompts)
        return image

    pooling = [block for block in model.blocks if hasattr(block, "pooled_rows")]
    with without_checkpointing(model), changed(pooling, "pooled_rows", None), ExitStack() as stack:
        for part in getattr(model, "layers", model.blocks):
            stack.enter_context(part.register_forward_pre_hook(join))
            stack.enter_context(part.register_forward_hook(divide))
        yield

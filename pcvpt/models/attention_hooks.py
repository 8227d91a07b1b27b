"""The attentions of a model, whatever its family, and looking at them while they compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from pcvpt.models.attention import PromptedAttention
from pcvpt.models.window_attention import PromptedWindowAttention

Attending = PromptedAttention | PromptedWindowAttention
Look = Callable[[int, Attending, tuple[Any, ...], dict[str, Any]], None]


def attentions_of(model: nn.Module) -> list[Attending]:
    """Return the attention of each block, in order."""
    return [part for part in model.modules() if isinstance(part, Attending)]


@contextmanager
def watched(model: nn.Module, look: Look) -> Iterator[None]:
    """Call ``look`` before each attention of a forward pass within this context.

    It gets the block's number, the attention, and what that is called with. A compiled model does
    not call it, so that it is to be asked by ``model.forward``.
    """
    hooks = []
    try:
        for block, attention in enumerate(attentions_of(model)):

            def hook(
                attention: Attending,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                block: int = block,
            ) -> None:
                look(block, attention, args, kwargs)

            hooks.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in hooks:
            handle.remove()

"""The attentions of a model of any family, and hooks that read them while the model computes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
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

    Call ``model.forward``, as a compiled model runs no hooks.

    Args:
        model: Prompted model.
        look: Function of the number of the block, its attention, and the arguments and keyword
            arguments of the attention.
    """
    with ExitStack() as hooks:
        for block, attention in enumerate(attentions_of(model)):
            hook = partial(look, block)
            handle = attention.register_forward_pre_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        yield

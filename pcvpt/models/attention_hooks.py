"""The attentions of a model of any family, and hooks that read them while the model computes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from pcvpt.models.attention import PromptedAttention
from pcvpt.models.window_attention import PromptedWindowAttention

AnyPromptedAttention = PromptedAttention | PromptedWindowAttention
AttentionPreHook = Callable[[int, AnyPromptedAttention, tuple[Any, ...], dict[str, Any]], None]


def attentions_of(model: nn.Module) -> list[AnyPromptedAttention]:
    """Return the attention of each block, in order."""
    return [part for part in model.modules() if isinstance(part, AnyPromptedAttention)]


@contextmanager
def attention_pre_hooks(model: nn.Module, hook: AttentionPreHook) -> Iterator[None]:
    """Call ``hook`` before each attention of a forward pass within this context.

    It gets the number of the block, its attention, and the positional and keyword arguments of the
    attention. Call ``model.forward``, as a compiled model runs no hooks.
    """
    with ExitStack() as handles:
        for block, attention in enumerate(attentions_of(model)):
            own = partial(hook, block)
            handles.enter_context(attention.register_forward_pre_hook(own, with_kwargs=True))
        yield

"""Changes of a model that last as long as a context."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn


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

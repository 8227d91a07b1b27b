"""What is wrong with an adapter, said by those who do not know its file."""

from typing import Any

_SHOWN = 60


class Fault(ValueError):
    """Something that can't be in an adapter; who knows the file makes a UsageError of it."""


def shown(value: Any) -> str:
    """Return ``value`` as an error may show it, cut short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

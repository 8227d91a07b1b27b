"""Adapters: a small file with all that training added to a backbone.

An adapter holds the kept prompts, the head, and a description: the backbone's name and the
fingerprint of its weights, class names, preprocessing, provenance. It does not hold the backbone. A
file is untrusted input: nothing in it can run code, name another file or an address, or make a
model that does not fit into the memory of this machine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcvpt.adapters.adapter import Adapter
    from pcvpt.adapters.load import load_adapter
    from pcvpt.adapters.save import save_adapter

__all__ = ["Adapter", "load_adapter", "save_adapter"]
_MODULES = {"Adapter": "adapter", "load_adapter": "load", "save_adapter": "save"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

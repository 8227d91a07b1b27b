"""Prompted vision transformers. Names are imported when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcvpt.models.factory import create_model
    from pcvpt.models.prompt_bank import PromptBank
    from pcvpt.models.transformer import PromptedTransformer
    from pcvpt.models.vit import PromptedVisionTransformer

__all__ = ["PromptBank", "PromptedTransformer", "PromptedVisionTransformer", "create_model"]
_MODULES = {
    "PromptBank": "prompt_bank",
    "PromptedTransformer": "transformer",
    "PromptedVisionTransformer": "vit",
    "create_model": "factory",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

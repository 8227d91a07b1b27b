"""Visual Prompt Tuning with Prompt Condensation for timm backbones, on PyTorch Lightning.

Public names are imported when they are first used, so that ``import pcvpt`` and the command start
at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pcvpt.errors import UsageError
from pcvpt.runs.version import __version__ as __version__

if TYPE_CHECKING:
    from pcvpt import data
    from pcvpt.adapters import load_adapter, load_exported, save_adapter, serve
    from pcvpt.callbacks import PromptCondensation
    from pcvpt.condensation import merge_prompts, score_prompts, select_prompts
    from pcvpt.models import create_model
    from pcvpt.training.module import PromptTuner
    from pcvpt.training.recipe import PhaseRecipe

__all__ = [
    "PhaseRecipe",
    "PromptCondensation",
    "PromptTuner",
    "UsageError",
    "create_model",
    "data",
    "load_adapter",
    "load_exported",
    "merge_prompts",
    "save_adapter",
    "score_prompts",
    "select_prompts",
    "serve",
]
_HOMES = {
    "pcvpt.adapters": ("load_adapter", "load_exported", "save_adapter", "serve"),
    "pcvpt.callbacks": ("PromptCondensation",),
    "pcvpt.condensation": ("merge_prompts", "score_prompts", "select_prompts"),
    "pcvpt.models": ("create_model",),
    "pcvpt.training.module": ("PromptTuner",),
    "pcvpt.training.recipe": ("PhaseRecipe",),
}


def __getattr__(name: str) -> Any:
    if name == "data":
        return import_module("pcvpt.data")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

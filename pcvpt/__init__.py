"""Visual Prompt Tuning with Prompt Condensation for timm backbones, on PyTorch Lightning."""

from pcvpt import data
from pcvpt.adapters import load_adapter, save_adapter
from pcvpt.callbacks import PromptCondensation
from pcvpt.condensation import score_prompts, select_prompts
from pcvpt.errors import UsageError
from pcvpt.models import create_model
from pcvpt.training.module import PromptTuner
from pcvpt.training.recipe import PhaseRecipe

__version__ = "0.1.0"
__all__ = [
    "PhaseRecipe",
    "PromptCondensation",
    "PromptTuner",
    "UsageError",
    "create_model",
    "data",
    "load_adapter",
    "save_adapter",
    "score_prompts",
    "select_prompts",
]

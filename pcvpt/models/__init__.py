"""Prompted vision transformers."""

from pcvpt.models.factory import create_model
from pcvpt.models.plain import PromptedVisionTransformer
from pcvpt.models.prompt_bank import PromptBank
from pcvpt.models.transformer import PromptedTransformer

__all__ = ["PromptBank", "PromptedTransformer", "PromptedVisionTransformer", "create_model"]

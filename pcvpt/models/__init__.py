"""Prompted vision transformers."""

from pcvpt.models.bank import PromptBank
from pcvpt.models.factory import create_model
from pcvpt.models.plain import PromptedTransformer
from pcvpt.models.vit import PromptedVisionTransformer

__all__ = ["PromptBank", "PromptedTransformer", "PromptedVisionTransformer", "create_model"]

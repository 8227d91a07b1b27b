"""Prompted vision transformers."""

from pcvpt.models.bank import PromptBank
from pcvpt.models.factory import create_model
from pcvpt.models.vit import PromptedVisionTransformer

__all__ = ["PromptBank", "PromptedVisionTransformer", "create_model"]

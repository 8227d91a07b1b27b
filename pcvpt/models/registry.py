"""The backbones that can be prompted: one row for each of timm's model classes."""

from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pcvpt.errors import UsageError
from pcvpt.models.beit import PromptedBeit
from pcvpt.models.eva import PromptedEva
from pcvpt.models.swin import PromptedSwinTransformer
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.vit import PromptedVisionTransformer

# timm's class: that of the prompted model.
FAMILIES: dict[type[nn.Module], type[PromptedTransformer]] = {
    VisionTransformer: PromptedVisionTransformer,
    Eva: PromptedEva,
    Beit: PromptedBeit,
    SwinTransformer: PromptedSwinTransformer,
}


def prompted_class(model: nn.Module) -> type[PromptedTransformer]:
    """Return the prompted class of a timm model.

    Raises:
        UsageError: If the class of the model, or of one of its blocks, can't be prompted.
    """
    # A subclass may have another forward, which prompting would drop.
    prompted = FAMILIES.get(type(model))
    if prompted is None:
        known = "; ".join(f"{timm.__name__} ({own.members})" for timm, own in FAMILIES.items())
        raise UsageError(f"{type(model).__name__} is not supported; supported: timm's {known}")
    prompted.require_parts(model)
    return prompted

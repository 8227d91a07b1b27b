"""The backbones that can be prompted: one row for each of timm's model classes."""

from torch import nn

from pcvpt.errors import UsageError
from pcvpt.models.plain import PromptedBeit, PromptedEva, PromptedVisionTransformer
from pcvpt.models.swin import PromptedSwinTransformer
from pcvpt.models.transformer import PromptedTransformer, by_timm_class

_PROMPTED = (PromptedVisionTransformer, PromptedEva, PromptedBeit, PromptedSwinTransformer)
FAMILIES: dict[type[nn.Module], type[PromptedTransformer]] = by_timm_class(_PROMPTED)
"""The prompted class of each of timm's."""


def prompted_class(model: nn.Module) -> type[PromptedTransformer]:
    """Return the prompted class of a timm model.

    Raises:
        UsageError: If the class of the model, or of one of its blocks, can't be prompted.
    """
    # Here and below: a subclass may have another forward, which prompting would drop.
    prompted = FAMILIES.get(type(model))
    if prompted is None:
        known = "; ".join(f"{timm.__name__} ({own.members})" for timm, own in FAMILIES.items())
        raise UsageError(f"{type(model).__name__} is not supported; supported: timm's {known}")
    parts = by_timm_class(prompted.parts)
    for block in prompted.timm_blocks(model):
        for part in (block, getattr(block, "attn", block)):
            if type(part) not in parts:
                known = ", ".join(timm.__name__ for timm in parts)
                raise UsageError(
                    f"blocks with {type(part).__name__} are not supported; supported: timm's "
                    f"{known} of {type(model).__name__}"
                )
    return prompted

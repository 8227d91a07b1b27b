"""The backbones that can be prompted: one row for each of timm's model classes."""

from typing import NamedTuple

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


class Family(NamedTuple):
    """The models of one timm class.

    Attributes:
        prompted: Class of the prompted model.
        members: Common names of the models, for the error about other models.
    """

    prompted: type[PromptedTransformer]
    members: str


FAMILIES: dict[type[nn.Module], Family] = {
    VisionTransformer: Family(
        PromptedVisionTransformer, "ViT, DeiT, DeiT-3, AugReg, CLIP, SigLIP, DINOv2, MAE"
    ),
    Eva: Family(PromptedEva, "EVA, EVA-02, DINOv3, Perception Encoder, RoPE-ViT"),
    Beit: Family(PromptedBeit, "BEiT, BEiT v2"),
    SwinTransformer: Family(PromptedSwinTransformer, "Swin, S3"),
}


def prompted_class(model: nn.Module) -> type[PromptedTransformer]:
    """Return the prompted class of a timm model.

    Raises:
        UsageError: If the class of the model, or of one of its blocks, can't be prompted.
    """
    # A subclass may have another forward, which prompting would drop.
    family = FAMILIES.get(type(model))
    if family is None:
        known = "; ".join(f"{timm.__name__} ({row.members})" for timm, row in FAMILIES.items())
        raise UsageError(f"{type(model).__name__} is not supported; supported: timm's {known}")
    family.prompted.require_parts(model)
    return family.prompted

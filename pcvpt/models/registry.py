"""The backbones that can be prompted: one row for each of timm's model classes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pcvpt.errors import UsageError
from pcvpt.models.beit import PromptedBeit
from pcvpt.models.eva import PromptedEva
from pcvpt.models.prompt_bank import PromptBank
from pcvpt.models.swin import prompt_swin, require_swin, swin_widths
from pcvpt.models.transformer import (
    Execution,
    Mode,
    PromptedTransformer,
    prompt_plain,
    require_parts,
)
from pcvpt.models.vit import PromptedVisionTransformer


@dataclass(frozen=True)
class Family:
    """How the models of one timm class are prompted.

    Args:
        members: names that users know them by, for the refusal of others.
        prompt: puts a bank into a model, in place.
        require: raises a UsageError for a model with parts that can't be prompted.
        widths: width of each block, in the order of the bank's layers.
    """

    members: str
    prompt: Callable[[nn.Module, PromptBank, Mode, Execution], PromptedTransformer]
    require: Callable[[nn.Module], None]
    widths: Callable[[Any], list[int]]


def _plain(members: str, prompted: type[PromptedTransformer]) -> Family:
    """Return the row of a family of one width, all of whose blocks are in ``model.blocks``."""
    return Family(
        members,
        prompt=lambda model, bank, mode, execution: prompt_plain(
            model, prompted, bank, mode, execution
        ),
        require=lambda model: require_parts(model, prompted),
        widths=lambda model: [model.embed_dim] * len(model.blocks),
    )


FAMILIES: dict[type[nn.Module], Family] = {
    VisionTransformer: _plain(
        "ViT, DeiT, DeiT-3, AugReg, CLIP, SigLIP, DINOv2, MAE",
        PromptedVisionTransformer,
    ),
    Eva: _plain("EVA, EVA-02, DINOv3, Perception Encoder, RoPE-ViT", PromptedEva),
    Beit: _plain("BEiT, BEiT v2", PromptedBeit),
    SwinTransformer: Family("Swin, S3", prompt_swin, require_swin, swin_widths),
}


def family_of(model: nn.Module) -> Family:
    """Return the row of ``model``.

    Raises:
        UsageError: when its class, or one of its blocks, can't be prompted.
    """
    # A subclass has a forward of its own, which prompting would drop.
    family = FAMILIES.get(type(model))
    if family is None:
        known = "; ".join(f"{timm.__name__} ({row.members})" for timm, row in FAMILIES.items())
        raise UsageError(f"{type(model).__name__} is not supported; supported: timm's {known}")
    family.require(model)
    return family

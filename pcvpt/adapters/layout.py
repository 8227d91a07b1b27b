"""The model that an adapter describes, laid out without contents, to see whether all fits."""

import re
from typing import Any

import timm
import torch
from torch import Tensor, nn

from pcvpt.adapters.description import Adapter
from pcvpt.adapters.fault import Fault, shown
from pcvpt.models import PromptedTransformer, create_model
from pcvpt.models.factory import physical_memory

_MOST_PATCHES = 2**18  # of an image


def arguments_of(adapter: Adapter, classes: int, prompts: int) -> dict[str, Any]:
    """Return the arguments of :func:`pcvpt.create_model` that ``adapter`` asks for."""
    return {
        "backbone": adapter.backbone,
        "num_classes": classes,
        "num_prompts": prompts if adapter.mode == "linear" else max(1, prompts),
        "mode": adapter.mode,
        "execution": adapter.execution,
        "pool_prompts": adapter.pool_prompts,
        **adapter.timm_kwargs,
    }


def require_registered(backbone: str) -> None:
    """Raise a Fault for a name that is not of a model that timm itself registers.

    ``hf-hub:OWNER/NAME`` and the like are places: a file could send its reader anywhere.
    """
    if not re.fullmatch(r"[\w.-]+", backbone) or not timm.is_model(backbone):
        raise Fault(
            f"the backbone {shown(backbone)} is not one of timm's own; if you trust it, name it "
            f"in load_adapter(..., backbone={shown(backbone)})"
        )


def lay_out(arguments: dict[str, Any]) -> PromptedTransformer:
    """Return the model of ``arguments`` with tensors that have no contents.

    Raises:
        Fault: when it can't be built, or would not fit into memory.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            model = create_model(pretrained=False, **arguments).eval()
            # What can be built need not run, such as heads of half a column.
            model(torch.empty(1, model.patch_embed.proj.in_channels, *model.patch_embed.img_size))
    except Exception as error:  # of a foreign description: timm raises anything
        reason = shown(next(iter(str(error).splitlines()), type(error).__name__))
        raise Fault(f"the model it describes can't be built ({reason})") from error
    needed = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    patches = model.patch_embed.num_patches or 0
    if needed > physical_memory() or patches > _MOST_PATCHES:
        raise Fault(
            f"the model it describes takes {needed / 1e9:,.1f} GB and {patches:,} patches of an "
            "image, too much for this machine"
        )
    return model


def check_same_layout(model: PromptedTransformer, other: PromptedTransformer) -> None:
    """Raise a Fault unless the backbone of ``model`` is laid out as that of ``other``."""
    differing = _shapes(model).items() ^ _shapes(other).items()
    pooling = [getattr(each, "global_pool", None) for each in (model, other)]
    if differing or pooling[0] != pooling[1]:
        names = sorted(name for name, _ in differing) or ["global_pool"]
        raise Fault(
            f"the model was changed after create_model, in {shown(names)}; give create_model "
            "arguments that make it so"
        )


def backbone_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the state dict that are neither prompts', nor made of them, nor the
    head's.
    """
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(("prompts.", "head."))
        and not name.endswith(("frozen_k", "frozen_v"))
    }


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in backbone_tensors(model).items()}

"""Build a prompted model from a timm backbone."""

import difflib
import inspect
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from torch import nn

from pcvpt.errors import UsageError
from pcvpt.models import demo_vit as demo_vit  # registers the demo's backbone with timm
from pcvpt.models.prompt_bank import PromptBank
from pcvpt.models.registry import prompted_class
from pcvpt.models.swin import PromptedSwinTransformer
from pcvpt.models.transformer import Blueprint, Execution, Mode, PromptedTransformer
from pcvpt.models.weights.files import first_line
from pcvpt.models.weights.load import load_backbone_weights
from pcvpt.models.weights.messages import log_in_first_process, normalization_note, weights_note

HeadInit = Literal["zero", "vpt"]

_REFUSED = {  # arguments of timm that would do nothing or harm, and why
    **dict.fromkeys(
        (
            *("pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
            *("drop_path_rate", "rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords"),
        ),
        "nothing is random in a frozen backbone; prompts have prompt_dropout, the head drop_rate",
    ),
    "head_init_scale": "the new head starts as head_init says",
    "device": "move the whole model",
    "dtype": "convert the whole model",
    "in_chans": "images have 3 channels",
}


def create_model(
    backbone: str,
    num_classes: int,
    num_prompts: int,
    mode: Mode = "deep",
    execution: Execution = "prefix",
    prompt_dropout: float = 0.0,
    pretrained: bool | str | Path = True,
    pool_prompts: bool = False,
    head_init: HeadInit = "zero",
    **timm_kwargs: Any,
) -> PromptedTransformer:
    """Build a frozen timm transformer with trainable prompts and a new linear head.

    Prompts start uniform in ±√(6 / (3·patch² + width)), as in Visual Prompt Tuning (Jia et al.,
    ECCV 2022, https://arxiv.org/abs/2203.12119); for another start see
    :func:`~pcvpt.models.token_init.init_from_tokens`.

    Args:
        backbone: timm model name, with or without a pretrained tag.
        num_classes: Number of classes of the head, at least 2.
        num_prompts: Number of prompts per layer, at least 1. It is 0 in mode "linear".
        mode: "deep" (every block has its own prompts), "prefix" (the same, but what is trained are
            the keys and values themselves: visual prefix tuning, after Li and Liang, ACL 2021,
            https://arxiv.org/abs/2101.00190; twice the numbers for each prompt), "shallow" (prompts
            enter before the first block and pass through all blocks), or "linear" (no prompts, the
            baseline). "prefix" starts with the keys and values that "deep" would start with.
        execution: "prefix" computes prompts as keys and values where nothing else of them is read
            (see :class:`~pcvpt.models.transformer.PromptedTransformer`); "tokens" is the paper's
            literal form. Both are the same function.
        prompt_dropout: Probability in [0, 1) of zeroing an element of a prompt. It is drawn for
            each image; in Swin's mode "deep", once for the whole batch.
        pretrained: True for timm's own weights, False for random ones, or the path of a local file.
        pool_prompts: Average patches and prompts before the head, as the release of Visual Prompt
            Tuning does, instead of patches only; for Swin. By default a prompt acts through
            attention alone, a masked prompt does not change the weight of the patches in the mean,
            and the last block need not compute any prompt.
        head_init: Weight and bias of the head at the start: "zero", or "vpt", as in the release of
            Visual Prompt Tuning: Kaiming-normal with the deviation √(2 / classes), and -log 99. The
            latter is large for few classes, and small learning rates do not undo it soon.
        **timm_kwargs: Further arguments of ``timm.create_model``, for example ``img_size=112``.

    Returns:
        The timm model itself with prompts. ``model(images)`` maps ``(b, 3, h, w)`` to logits
        ``(b, num_classes)``; ``model.prompts`` is its
        :class:`~pcvpt.models.prompt_bank.PromptBank`.

    Raises:
        UsageError: If the backbone is unknown or not supported, its weights can't be loaded, a
            number is out of its range, or an argument would do nothing.
    """
    _check_choices(mode, execution, head_init, prompt_dropout, num_classes, num_prompts)
    for name, reason in _REFUSED.items():
        if (value := timm_kwargs.get(name)) and (name, value) != ("in_chans", 3):
            raise UsageError(f"{name}={value} of timm is not supported: {reason}; leave it out")
    backbone_model, prompted = _create_backbone(backbone, num_classes, pretrained, timm_kwargs)
    widths = prompted.widths(backbone_model)
    layers = {"shallow": 1, "linear": 0}.get(mode, len(widths))
    # Values, gradients and two optimizer moments.
    numbers = num_prompts * sum(widths[:layers]) * (2 if mode == "prefix" else 1)
    needed, present = 4 * 4 * numbers, physical_memory()
    if needed > present:
        raise UsageError(
            f"num_prompts={num_prompts} needs {needed / 1e9:.0f} GB for the prompts and their "
            f"optimizer; this machine has {present / 1e9:.0f} GB; use fewer"
        )
    patch_height, patch_width = backbone_model.patch_embed.patch_size
    bound = math.sqrt(6 / (3 * patch_height * patch_width + widths[0]))  # of the stem
    bank = PromptBank(layers, num_prompts, widths, bound, prompt_dropout)
    head = backbone_model.get_classifier()
    if head_init == "vpt":
        nn.init.kaiming_normal_(head.weight, mode="fan_out")
        nn.init.constant_(head.bias, -math.log(99.0))
    else:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    model = prompted.prompt(backbone_model, bank, mode, execution)
    if pool_prompts:
        if not isinstance(model, PromptedSwinTransformer):
            raise UsageError(f"pool_prompts=True, but {backbone!r} is no Swin; leave it out")
        model.pool_prompts = True
    model.blueprint = Blueprint(backbone, num_prompts, pretrained, dict(timm_kwargs))
    return model


def timm_arguments(image_size: int | None, timm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments of :func:`create_model` for timm, from two options of a configuration.

    Raises:
        UsageError: Argument in ``timm_kwargs`` that an option of its own gives.
    """
    size = {} if image_size is None else {"img_size": image_size}
    own = {**inspect.signature(create_model).parameters, **size}
    for name in (timm_kwargs or {}).keys() & own.keys():
        option = "image_size" if name == "img_size" else name
        raise UsageError(f"timm_kwargs has {name}, which {option} gives; leave out one of them")
    return {**size, **(timm_kwargs or {})}


def _check_choices(
    mode: str,
    execution: str,
    head_init: str,
    dropout: float,
    num_classes: int,
    num_prompts: int,
) -> None:
    choices = ("mode", mode, Mode), ("execution", execution, Execution)
    for name, value, known in (*choices, ("head_init", head_init, HeadInit)):
        if value not in get_args(known):
            raise UsageError(f"{name}={value!r}; choose one of {', '.join(get_args(known))}")
    if not 0 <= dropout < 1:
        raise UsageError(f"prompt_dropout={dropout}; give a probability in [0, 1)")
    if num_classes < 2:
        raise UsageError(f"num_classes={num_classes}; a classifier needs at least 2")
    if mode == "linear" and num_prompts != 0:
        raise UsageError(f"num_prompts={num_prompts} in mode 'linear', which has none; give 0")
    if mode == "prefix" and execution != "prefix":
        raise UsageError(
            f"execution={execution!r} computes prompts as tokens; mode 'prefix' has keys and values"
        )
    if mode != "linear" and num_prompts < 1:
        raise UsageError(
            f"num_prompts={num_prompts}; give at least 1, or mode 'linear' for a linear probe"
        )


def physical_memory() -> float:
    """Return the memory of this machine in bytes, infinity where it is unknown."""
    if not hasattr(os, "sysconf"):  # Windows
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _create_backbone(
    backbone: str, num_classes: int, pretrained: bool | str | Path, timm_kwargs: dict[str, Any]
) -> tuple[Any, type[PromptedTransformer]]:
    size = timm_kwargs.get("img_size")
    for side in size if isinstance(size, (tuple, list)) else (size,):
        if isinstance(side, int) and side < 1:
            raise UsageError(f"image size {size}; give a number of pixels, at least one patch")
    name = backbone.removeprefix("hf-hub:")
    if name == backbone and not timm.is_model(name):
        known = [*timm.list_models(), *timm.list_pretrained()]
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else "; see timm.list_models()"
        raise UsageError(f"unknown backbone {backbone!r}{hint}")
    if pretrained is True:  # so that a backbone is refused before its weights are downloaded
        with torch.device("meta"):
            _checked_class(_build(backbone, num_classes, False, timm_kwargs), backbone, timm_kwargs)
    model = _build(backbone, num_classes, pretrained is True, timm_kwargs)
    prompted = _checked_class(model, backbone, timm_kwargs)
    if not isinstance(pretrained, bool):
        load_backbone_weights(model, pretrained)
        log_in_first_process(normalization_note(model))
    elif pretrained and (note := weights_note(backbone)):
        log_in_first_process(note)
    return model, prompted


def _build(backbone: str, num_classes: int, pretrained: bool, timm_kwargs: dict[str, Any]) -> Any:
    try:
        return timm.create_model(
            backbone, pretrained=pretrained, num_classes=num_classes, **timm_kwargs
        )
    except Exception as error:  # hub clients and timm raise anything from OSError to AssertionError
        reason = first_line(error)
        remedy = "give `pretrained` a local weights file, or check the network and the arguments"
        if "pretrained tag" in reason:
            near = difflib.get_close_matches(backbone, timm.list_pretrained(), n=4, cutoff=0.5)
            remedy = f"nearest: {', '.join(near)}"
        raise UsageError(f"backbone {backbone!r} could not be built: {reason}; {remedy}") from error


def _checked_class(
    model: Any, backbone: str, timm_kwargs: dict[str, Any]
) -> type[PromptedTransformer]:
    """Return the prompted class of ``model``; refuse a model that can't be prompted."""
    prompted = prompted_class(model)
    takes = inspect.signature(type(model)).parameters
    unknown = timm_kwargs.keys() - {*takes, *inspect.signature(timm.create_model).parameters}
    if unknown and "kwargs" in takes:  # the Swin of older versions of timm drops what is unknown
        raise UsageError(f"{backbone!r} takes no {', '.join(sorted(unknown))}; leave it out")
    if not prompted.timm_blocks(model):
        raise UsageError(f"backbone {backbone!r} has no block ({timm_kwargs}); give it some")
    if not getattr(model.patch_embed, "dynamic_img_pad", False):
        sizes = model.patch_embed.img_size
        for side, patch in zip(sizes, model.patch_embed.patch_size, strict=True):
            if side % patch:  # patches at the border would be cut off
                lower = side // patch * patch
                sides = " or ".join(str(n) for n in (lower, lower + patch) if n)
                raise UsageError(
                    f"image size {side} is no multiple of the patch size {patch}; take {sides}"
                )
    if not model.global_pool:
        raise UsageError("global_pool='' pools nothing; take 'token' or 'avg'")
    if not isinstance(model.get_classifier(), nn.Linear):
        raise UsageError(f"backbone {backbone!r} has no linear head to replace")
    return prompted

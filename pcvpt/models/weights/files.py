"""Weights files of many origins, read into one flat dict of tensors.

Three things around the tensors are removed here: the dict that training scripts save, the prefixes
of wrappers, and the networks that only pretraining needs. Names stay those of the file's authors;
:mod:`pcvpt.models.weights.load` turns them into timm's.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

from pcvpt.errors import UsageError

# Keys under which training scripts save the tensors, in the order of choice. Self-supervised
# training is for the teacher; averages (EMA) count only where there is nothing else.
_WRAPPERS = ["model", "state_dict", "module", "teacher", "encoder", "model_ema", "state_dict_ema"]
_STEM = "patch_embed.proj.weight"  # every backbone has one: it tells where the backbone begins
_SECOND_COPY = re.compile(r"(^|[._])(momentum|student|ema)")
# Tensors beside a backbone: heads, masks of masked pretraining, buffers that are computed.
_BESIDE = re.compile(
    r"^(head|head_dist|lm_head|dino_head|ibot_head|predictor|projectors|local_cls_norm)(?=\.)"
    r"|^mask_token$|^decoder_?[^.]*"
    r"|(?<=\.)(relative_position_index|relative_coords_table|attn_mask|bias_mask|periods)$"
    r"|pre_logits"
)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the tensors of a .safetensors, .pth, .pt or .bin file; no code in it is run.

    Returns:
        Tensors that may belong to the backbone, its head and masks included, by the authors' names
        without wrappers' prefixes; and the names of those of other networks: momentum encoder,
        predictor, text tower.

    Raises:
        UsageError: If it can't be read, or holds no tensors, or several backbones.
    """
    content = _read(path)
    if not isinstance(content, Mapping):
        raise UsageError(
            f"{path}: holds a {type(content).__name__} instead of named tensors; save the "
            "model's state_dict()"
        )
    if "pcvpt" in content:
        raise UsageError(
            f"{path}: a checkpoint of pcvpt, which holds prompts and head but not the backbone; "
            "give it as --ckpt_path, and the backbone's own weights as `pretrained`"
        )
    while inner := [k for k in _WRAPPERS if isinstance(content.get(k), Mapping)]:
        content = content[inner[0]]
    tensors = {k: v for k, v in clean_state_dict(dict(content)).items() if isinstance(v, Tensor)}
    if not tensors:
        found = ", ".join(sorted(map(str, content))[:5]) or "nothing"
        raise UsageError(
            f"{path}: holds no tensors (found: {found}); save the model's state_dict()"
        )
    prefix = _backbone_prefix(path, tensors)
    inside = {k: v for k, v in tensors.items() if k.startswith(prefix)}
    dropped = tuple(k for k in tensors if k not in inside)
    if prefix != "visual.":  # of CLIP's own files, which timm knows by it
        inside = {k.removeprefix(prefix): v for k, v in inside.items()}
    return inside, dropped


def beside_backbone(name: str) -> str | None:
    """Return the kind of a tensor that no backbone needs ("head", "attn_mask"), else None."""
    found = _BESIDE.search(name)
    return found.group() if found else None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Training scripts save their arguments too; a Namespace runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error):
            raise UsageError(f"{path}: not a readable weights file; fetch it again") from error
        raise UsageError(
            f"{path}: holds Python objects beside tensors, which could run code when loaded; where "
            "you trust it, load it yourself and save its state_dict() alone"
        ) from error
    except Exception as error:  # readers of foreign files raise anything
        raise UsageError(
            f"{path}: not a readable weights file ({first_line(error)}); fetch it again"
        ) from error


def _backbone_prefix(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Return the prefix of the backbone's names: "" in most files, "base_encoder.", ..."""
    prefixes = {k.removesuffix(_STEM) for k in tensors if k == _STEM or k.endswith(f".{_STEM}")}
    if "" in prefixes:
        return ""
    if not prefixes:  # names that timm knows as they are
        return "visual." if any(k.startswith("visual.") for k in tensors) else ""
    first = sorted(p for p in prefixes if not _SECOND_COPY.search(p)) or sorted(prefixes)
    if len(first) > 1:
        raise UsageError(
            f"{path}: holds several backbones ({', '.join(first)}); save one of them alone"
        )
    return first[0]

"""Tensors of a weights file under timm's names, through timm's own converters."""

import contextlib
import copy
import inspect
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pcvpt.errors import UsageError
from pcvpt.models.weights.files import beside_backbone, first_line, read_checkpoint

HEADS = ("head.", "head_dist.")
_RESAMPLED = ("pos_embed", "patch_embed.proj.weight", "relative_position_bias_table")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Converted:
    """The tensors of a file by timm's names, resampled to the model's sizes.

    For ``resized`` and ``dropped`` see :class:`~pcvpt.models.weights.load.WeightsReport`.
    ``unknown`` are the names in the file of tensors that belong to another model.
    """

    tensors: dict[str, Tensor]
    resized: tuple[tuple[str, Shape, Shape], ...]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...] = ()


def from_torch(model: nn.Module, path: Path) -> Converted:
    """Read a state dict, through the converter that timm has for this architecture."""
    before, others = read_checkpoint(path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # timm prints what it tries
            after = _timm_filter(model)(dict(before), model)
    except Exception as error:  # converters of foreign files raise anything
        raise UsageError(
            f"{path}: timm can't convert it for {type(model).__name__} ({first_line(error)}); "
            "give a file of the same architecture"
        ) from error
    resized = [
        (name, tuple(before[name].shape), tuple(tensor.shape))
        for name, tensor in after.items()
        if name in before and name.endswith(_RESAMPLED) and _was_resampled(before[name], tensor)
    ]
    return Converted(after, tuple(resized), (*others, *filter(beside_backbone, before)))


def _timm_filter(model: nn.Module) -> Callable[..., dict[str, Tensor]]:
    """Return the converter of original names in the timm module that defines the model's class."""
    for base in type(model).__mro__:
        found = getattr(sys.modules[base.__module__], "checkpoint_filter_fn", None)
        if found is not None and base.__module__.startswith("timm."):
            options = {"adapt_layer_scale": True}  # DeiT-3's names
            known = inspect.signature(found).parameters
            return lambda *args: found(*args, **{k: v for k, v in options.items() if k in known})
    return lambda state, _: dict(state)


def _was_resampled(before: Tensor, after: Tensor) -> bool:
    if after is before or before.ndim != after.ndim:  # the latter: a reshaped patch embedding
        return False
    # DINOv2's class token has a position there, which timm adds to the token.
    return before.ndim != 3 or before.shape[1] != after.shape[1] + 1


@torch.no_grad()
def from_jax(model: nn.Module, path: Path) -> Converted:
    """Read the original .npz of a ViT through timm's own loader."""
    # The loader copies into a model, so it gets one full of NaN: what it leaves out stays NaN.
    target: Any = copy.deepcopy(model)
    for tensor in target.state_dict().values():
        tensor.fill_(float("nan"))
    try:
        with np.load(path, allow_pickle=False) as archive:
            shapes = {name: tuple(archive[name].shape) for name in archive.files}
        target.load_pretrained(str(path))
    except Exception as error:  # the loader raises anything, a KeyError for a lacking block
        raise UsageError(
            f"{path}: not a readable .npz of this {type(model).__name__} ({first_line(error)}); "
            "give the original file of a plain ViT of the same architecture"
        ) from error
    tensors = {
        k: v
        for k, v in target.state_dict().items()
        if not k.startswith(HEADS) and not bool(v.isnan().all())
    }
    root = next(k for k in shapes if k.endswith("embedding/kernel"))
    root = root.removesuffix("embedding/kernel")  # "", or "params/img/" beside a text tower
    own = {k.removeprefix(root): v for k, v in shapes.items() if k.startswith(root)}
    height, width, *channels = own["embedding/kernel"]
    before: dict[str, Shape] = {"patch_embed.proj.weight": (*channels[::-1], height, width)}
    for positions in (k for k in own if k.endswith("pos_embedding")):
        before["pos_embed"] = own[positions]
    after = {name: tuple(tensors[name].shape) for name in before if name in tensors}
    beside = [k for k in own if k.startswith(("head/", "pre_logits/"))]
    depth, heads = len(target.blocks), target.blocks[0].attn.num_heads
    unknown = [  # the loader reads the first blocks, and reshapes them
        k
        for k, shape in own.items()
        if k.startswith(f"Transformer/encoderblock_{depth}/")
        or (k.startswith("Transformer/encoderblock/") and shape[0] != depth)  # all blocks stacked
        or (k.endswith("/query/kernel") and shape[-2] != heads)
        or (k.startswith("MAPHead_0/") and target.attn_pool is None)
    ]
    return Converted(
        tensors,
        tuple((k, before[k], shape) for k, shape in after.items() if before[k] != shape),
        (*(k for k in shapes if not k.startswith(root)), *beside),
        tuple(unknown),
    )

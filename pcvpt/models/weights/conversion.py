"""Tensors of a weights file under timm's names, through timm's own converters."""

import contextlib
import copy
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping
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
    if not hasattr(model, "load_pretrained"):
        raise UsageError(
            f"{path}: .npz files are for plain ViTs, not for {type(model).__name__}; "
            "give a .safetensors or .pth file"
        )
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
            "give the original file of the same architecture"
        ) from error
    state = target.state_dict()
    tensors = {
        k: v for k, v in state.items() if not k.startswith(HEADS) and not bool(v.isnan().all())
    }
    patches = next(name for name in shapes if name.endswith("embedding/kernel"))
    root = patches.removesuffix("embedding/kernel")  # "", or "params/img/" beside a text tower
    inside = {k.removeprefix(root): v for k, v in shapes.items() if k.startswith(root)}
    heads = [k for k in inside if k.startswith(("head/", "pre_logits/"))]
    return Converted(
        tensors,
        tuple(_resized_jax(inside, tensors)),
        (*(k for k in shapes if not k.startswith(root)), *heads),
        tuple(_unknown_jax(inside, target)),
    )


def _resized_jax(
    shapes: Mapping[str, Shape], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, Shape, Shape]]:
    """Yield the tensors that timm's loader resampled; kernels are (height, width, in, out)."""
    for name, shape in shapes.items():
        if name == "embedding/kernel":
            after = tuple(tensors["patch_embed.proj.weight"].shape)
            if shape[:2] != after[2:]:
                yield "patch_embed.proj.weight", (*shape[:1:-1], *shape[:2]), after
        elif name.endswith("pos_embedding") and "pos_embed" in tensors:
            after = tuple(tensors["pos_embed"].shape)
            if shape != after:
                yield "pos_embed", shape, after


def _unknown_jax(shapes: Mapping[str, Shape], model: Any) -> Iterator[str]:
    """Yield the names that timm's loader skips or reshapes, as the file is of another model."""
    depth = len(model.blocks)
    for name, shape in shapes.items():
        block = re.match(r"Transformer/encoderblock(?:_(\d+))?/", name)
        if name.startswith("MAPHead_0/") and model.attn_pool is None:
            yield name
        elif block is not None:  # without a number: all blocks stacked
            heads = model.blocks[0].attn.num_heads
            if int(block[1]) >= depth if block[1] else shape[0] != depth:
                yield name
            elif name.endswith("/query/kernel") and shape[-2] != heads:
                yield f"{name} ({shape[-2]} heads)"

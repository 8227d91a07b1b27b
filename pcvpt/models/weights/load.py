"""Loading of backbone weights from a local file, through timm's own converters of names."""

import contextlib
import copy
import io
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pcvpt.errors import UsageError
from pcvpt.models.weights.files import beside_backbone, first_line, read_checkpoint
from pcvpt.models.weights.messages import log_in_first_process

_HEADS = ("head.", "head_dist.")
_RESAMPLED = ("pos_embed", "patch_embed.proj.weight", "relative_position_bias_table")
_SHOWN = 5
Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightsReport:
    """Report on the tensors of a weights file, by their names.

    Those that are resized were resampled to the model's image, patch or window size. A file that
    lacks a tensor of the backbone is refused.
    """

    path: Path
    loaded: tuple[str, ...]  # in the model
    resized: tuple[tuple[str, Shape, Shape], ...]  # with the shapes in the file and in the model
    dropped: tuple[str, ...]  # in the file: heads, decoders, momentum encoder, computed buffers
    missing: tuple[str, ...]  # in the model: those of the head, which keep their values

    def __str__(self) -> str:
        """Return one line."""
        parts = [f"{self.path}: {len(self.loaded)} tensors loaded"]
        if self.resized:
            name, before, after = self.resized[0]
            more = len(self.resized) - 1
            parts.append(f"resized: {name} {before} to {after}" + f" and {more} more" * bool(more))
        if self.dropped:
            kinds = Counter(beside_backbone(k) or re.split(r"[./]", k)[0] for k in self.dropped)
            parts.append("dropped: " + ", ".join(f"{k} ({n})" for k, n in kinds.items()))
        return "; ".join([*parts, f"as they were: {', '.join(self.missing) or 'none'}"])


def load_backbone_weights(model: nn.Module, path: str | Path) -> WeightsReport:
    """Load the backbone's weights from ``path`` into ``model``; the head keeps its own.

    Names may be timm's, or those of the authors if timm knows them (DINOv2 and v3, EVA, CLIP, MAE,
    MoCo v3, DeiT-3, Microsoft's Swin, ...). Position embeddings, Swin's tables of relative position
    bias and patch embeddings are resampled to the model's sizes.

    Args:
        model: timm model, not yet prompted.
        path: File with a state dict (.safetensors, .pt, .pth or .bin), or the original .npz of a
            ViT.

    Returns:
        Names of the loaded, resized, dropped and missing tensors; also logged in one line.

    Raises:
        UsageError: If the file is missing or unreadable, or does not hold every tensor of the
            backbone, finite and in the right shape.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(
            f"{path}: no such weights file; give a .safetensors, .pth or .npz file "
            "(in a configuration model.pretrained)"
        )
    converted = (_from_jax if path.suffix == ".npz" else _from_torch)(model, path)
    state = model.state_dict()
    wanted = {k: v for k, v in state.items() if not k.startswith(_HEADS)}
    found = {k: v for k, v in converted.tensors.items() if k in wanted or not beside_backbone(k)}
    both = sorted(wanted.keys() & found.keys())
    same = [k for k in both if wanted[k].shape == found[k].shape]
    faults = {
        "missing": sorted(wanted.keys() - found.keys()),
        "of another shape": [k for k in both if k not in same],
        "unknown": [*sorted(found.keys() - wanted.keys()), *converted.unknown],
        "not finite": [k for k in same if not bool(found[k].isfinite().all())],
    }
    if any(faults.values()):
        told = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{' ...' * (len(names) > _SHOWN)}"
            for what, names in faults.items()
            if names
        )
        remedy = "give a whole file of the same architecture"
        if faults["missing"] == ["fc_norm.bias", "fc_norm.weight"]:
            remedy = "to pool after the norm that the file has, set timm_kwargs: {fc_norm: false}"
        raise UsageError(f"{path}: the tensors do not fit the backbone ({told}); {remedy}")
    model.load_state_dict(found, strict=False)
    report = WeightsReport(
        path,
        loaded=tuple(found),
        resized=tuple(item for item in converted.resized if item[0] in found),
        dropped=tuple(k for k in converted.dropped if k not in found),
        missing=tuple(k for k in state if k not in wanted),
    )
    log_in_first_process(str(report))
    return report


class _Converted(NamedTuple):
    """The tensors of a file by timm's names, resampled to the model's sizes."""

    tensors: dict[str, Tensor]
    resized: tuple[tuple[str, Shape, Shape], ...]  # as in the report
    dropped: tuple[str, ...]
    unknown: tuple[str, ...] = ()  # in the file: tensors that belong to another model


def _from_torch(model: nn.Module, path: Path) -> _Converted:
    """Read a state dict, through the converter that timm has for this architecture."""
    before, others = read_checkpoint(path)
    convert: Any = vars(sys.modules[type(model).__module__])["checkpoint_filter_fn"]
    names = {"adapt_layer_scale": True} if isinstance(model, VisionTransformer) else {}  # DeiT-3's
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # timm prints what it tries
            after = convert(dict(before), model, **names)
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
    return _Converted(after, tuple(resized), (*others, *filter(beside_backbone, before)))


def _was_resampled(before: Tensor, after: Tensor) -> bool:
    if after is before or before.ndim != after.ndim:  # the latter: a reshaped patch embedding
        return False
    # DINOv2's class token has a position there, which timm adds to the token.
    return before.ndim != 3 or before.shape[1] != after.shape[1] + 1


@torch.no_grad()
def _from_jax(model: nn.Module, path: Path) -> _Converted:
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
    tensors = {k: v for k, v in target.state_dict().items() if not bool(v.isnan().all())}
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
    return _Converted(
        tensors,
        tuple((k, before[k], shape) for k, shape in after.items() if before[k] != shape),
        (*(k for k in shapes if not k.startswith(root)), *beside),
        tuple(unknown),
    )

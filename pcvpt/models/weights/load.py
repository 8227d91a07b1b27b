"""Loading of backbone weights from a local file."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pcvpt.errors import UsageError
from pcvpt.models.weights.conversion import HEADS, Shape, from_jax, from_torch
from pcvpt.models.weights.files import beside_backbone
from pcvpt.models.weights.messages import log_in_first_process

_SHOWN = 5


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
    converted = (from_jax if path.suffix == ".npz" else from_torch)(model, path)
    state = model.state_dict()
    wanted = {k: v for k, v in state.items() if not k.startswith(HEADS)}
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

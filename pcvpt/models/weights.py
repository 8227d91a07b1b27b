"""Backbone weights from a local file."""

from pathlib import Path

from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from pcvpt.errors import UsageError

_SHOWN = 5


def load_backbone_weights(model: VisionTransformer, path: str | Path) -> None:
    """Load the backbone's weights from ``path`` into ``model``; the head keeps its own.

    timm's and the common original parameter names are understood (DINOv2, CLIP, MAE, DeiT-3, ...),
    and position embeddings are resampled to the model's image size.

    Args:
        model: a timm ViT, not yet prompted.
        path: a .safetensors, .pt or .pth file with a state dict.

    Raises:
        UsageError: when the file is missing or unreadable, or does not hold every tensor of the
            backbone in the right shape.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"{path}: no such weights file; give a .safetensors or .pth file")
    try:
        state = checkpoint_filter_fn(load_state_dict(str(path), use_ema=False), model)
    except Exception as error:  # readers of foreign files raise anything
        raise UsageError(f"{path}: not a readable ViT state dict ({error})") from error
    wanted = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    state = {k: v for k, v in state.items() if not k.startswith("head.")}
    missing = sorted(wanted.keys() - state.keys())
    wrong = sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape)
    foreign = sorted(state.keys() - wanted.keys())
    if missing or wrong or foreign:
        found = [
            f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{' ...' * (len(names) > _SHOWN)}"
            for what, names in (
                ("missing", missing),
                ("of another shape", wrong),
                ("unknown", foreign),
            )
            if names
        ]
        raise UsageError(f"{path}: the tensors do not fit the backbone ({'; '.join(found)})")
    model.load_state_dict(state, strict=False)

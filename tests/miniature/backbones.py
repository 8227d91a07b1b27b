"""Backbones of every supported kind in miniature, with weights that make prompts matter."""

import inspect
from typing import Any

import timm
import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from pcvpt.models import create_model

DEPTH, PROMPTS, CLASSES = 3, 4, 5
PLAIN: dict[str, Any] = {"depth": DEPTH, "embed_dim": 48, "num_heads": 3, "img_size": 32}
# Eight by eight patches in four windows, then four by four in one.
SWIN: dict[str, Any] = {
    "depths": (2, 1),
    "embed_dim": 12,
    "num_heads": (2, 4),
    "window_size": 4,
    "img_size": 32,
}

# A new kind of backbone is a row here, and every test that asks for `backbone` runs on it. Rows of
# COMMON run in `make test`, the others in `make test-all`.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "class_token": ("vit_tiny_patch16_224", {}),
    "registers_and_layer_scale": ("vit_small_patch14_reg4_dinov2", {"img_size": 28}),
    "qk_norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "scaled_attention": ("vit_tiny_patch16_224", {"scale_attn_norm": True}),
    "no_class_token": ("vit_base_patch16_gap_224", {}),
    "average_pooling": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "positions_without_class": ("deit3_small_patch16_224", {}),
    "clip": ("vit_base_patch16_clip_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "not_square": ("vit_tiny_patch16_224", {"img_size": (32, 48)}),
    "no_qkv_bias": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 28}),
    # Separate projections of query, key and value.
    "eva02_inner_norm": ("eva02_base_patch14_224", {"img_size": 28, "global_pool": "token"}),
    "eva_post_norm": (
        "eva02_enormous_patch14_clip_224",  # no rotation
        # Attention gets large tokens here; with wide heads it would be saturated, and blind.
        {"img_size": 28, "use_pre_transformer_norm": True, "num_heads": 12},
    ),
    "dinov3": ("vit_small_patch16_dinov3", {"global_pool": "token"}),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", {"img_size": (32, 48)}),
    "perception_encoder": ("vit_pe_core_tiny_patch16_384", {}),
    "beit": ("beit_base_patch16_224", {"global_pool": "token"}),
    "beit_shared_bias": (
        "beit_base_patch16_224",
        {
            "img_size": (32, 48),
            "global_pool": "token",
            "use_rel_pos_bias": False,
            "use_shared_rel_pos_bias": True,
        },
    ),
    "swin": ("swin_tiny_patch4_window7_224", {}),
    "swin_padded": ("swin_tiny_patch4_window7_224", {"img_size": (28, 44)}),
    "swin_one_window": ("swin_tiny_patch4_window7_224", {"window_size": 8}),
    "swin_always_partitioned": (
        "swin_tiny_patch4_window7_224",
        {"always_partition": True, "img_size": 64},
    ),
    "swin_any_input_size": ("swin_tiny_patch4_window7_224", {"strict_img_size": False}),
    "swin_windows_not_square": ("swin_tiny_patch4_window7_224", {"window_size": (2, 4)}),
    "swin_no_qkv_bias": ("swin_tiny_patch4_window7_224", {"qkv_bias": False}),
    "swin_other_head_width": ("swin_tiny_patch4_window7_224", {"head_dim": 8}),
    "swin_pooled": ("swin_tiny_patch4_window7_224", {"pool_prompts": True}),
    "swin_pooled_padded": (
        "swin_tiny_patch4_window7_224",
        {"pool_prompts": True, "img_size": (28, 44)},
    ),
}
if "num_kv_heads" in inspect.signature(Eva).parameters:  # newer versions of timm
    BACKBONES["grouped_query"] = ("vit_base_patch16_sapiens2", {"num_heads": 4, "num_kv_heads": 2})
COMMON = [
    "class_token",
    "registers_and_layer_scale",
    "eva02_inner_norm",
    "eva_post_norm",
    "dinov3",
    "beit_shared_bias",
    "swin_any_input_size",
    "swin_pooled_padded",
]
MODES = ("deep", "prefix", "shallow")
# Each mode in the ways in which its prompts are computed.
WAYS = [
    *((mode, execution) for mode in ("deep", "shallow") for execution in ("prefix", "tokens")),
    ("prefix", "prefix"),
]
KEEP = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)


def shake(model: nn.Module) -> None:
    """Move every parameter away from its initial value, so that each one shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        base = parameter.data if parameter.ndim == 1 else 0
        if parameter.ndim == 1 and parameter.abs().max() < 1e-3:  # biases, and a tiny LayerScale
            base = 0.5
        parameter.data = base + 0.2 * noise


def arguments(backbone: str = "class_token", **options: Any) -> tuple[str, dict[str, Any]]:
    """Return the timm name of a row, or of a miniature of another model, and its arguments."""
    name, own = BACKBONES.get(backbone, (backbone, {}))
    return name, {**(SWIN if name.startswith("swin") else PLAIN), **own, **options}


def build(backbone: str = "class_token", **options: Any) -> Any:
    """Return the prompted model of a row of the table, with random weights.

    With ``pretrained`` those of the backbone are from this file.
    """
    name, options = arguments(backbone, **options)
    if options.get("mode") == "linear":
        options |= {"num_prompts": 0, "pool_prompts": False}
    if options.get("mode") == "prefix":
        options |= {"pool_prompts": False}
    options = {"num_prompts": PROMPTS, "pretrained": False, **options}
    model: Any = create_model(name, CLASSES, **options)
    for part in (model.prompts, model.get_classifier()) if options["pretrained"] else (model,):
        shake(part)
    return model.eval()


def timm_model(backbone: str = "class_token", shaken: bool = True, **options: Any) -> Any:
    """Return timm's own model of a row of the table, with random weights."""
    name, options = arguments(backbone, **options)
    options.pop("pool_prompts", None)
    model = timm.create_model(name, **{"num_classes": CLASSES, **options})
    if shaken:
        shake(model)
    return model.eval()


def plain(model: nn.Module, backbone: str = "class_token", **options: Any) -> Any:
    """Return timm's own model of a row of the table, with the weights of ``model``."""
    own = timm_model(backbone, shaken=False, **options)
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("prompts.")}
    own.load_state_dict(weights)  # strict: every name, no other
    return own


def images(model: Any, batch: int = 3) -> Tensor:
    """Return random images of the model's size."""
    any_size = hasattr(model, "layers") and not model.patch_embed.strict_img_size  # of a Swin
    size = (24, 40) if any_size else model.patch_embed.img_size
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(2))


def masked(model: Any, keep: Tensor = KEEP) -> Any:
    """Mask some prompts of ``model``: one layer keeps none."""
    if model.mode != "linear":
        model.prompts.apply_mask(list(keep[: len(model.prompts.keep)]))
    return model


def without_prompts(model: Any) -> Any:
    """Mask every prompt of ``model``."""
    return masked(model, torch.zeros_like(model.prompts.keep))


@torch.no_grad()
def logits(model: nn.Module, batch: Tensor | None = None) -> Tensor:
    """Return the logits of ``batch``, by default of :func:`images`."""
    return model(images(model) if batch is None else batch)


def assert_close(found: Tensor, expected: Tensor, what: str = "", tolerance: float = 1e-5) -> None:
    """Assert that two tensors differ by no more than round-off of the largest value."""
    assert (found - expected).abs().max() <= tolerance * expected.abs().max(), what

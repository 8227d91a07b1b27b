"""Backbones of every supported kind in miniature, with weights that make prompts matter."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pcvpt.models import PromptedTransformer, create_model

DEPTH, PROMPTS, CLASSES = 3, 4, 5
SIZE: dict[str, Any] = {"depth": DEPTH, "embed_dim": 48, "num_heads": 3}

# A new kind of backbone is a row here, and every test of this folder that asks for `backbone`
# runs on it. The first is the one that tests without a table use.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "class_token": ("vit_tiny_patch16_224", {"img_size": 32}),
    "registers_and_layer_scale": ("vit_small_patch14_reg4_dinov2", {"img_size": 28}),
    "qk_norm": ("vit_tiny_patch16_224", {"img_size": 32, "qk_norm": True}),
    "scaled_attention": ("vit_tiny_patch16_224", {"img_size": 32, "scale_attn_norm": True}),
    "no_class_token": ("vit_base_patch16_gap_224", {"img_size": 32}),
    "average_pooling": ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg"}),
    "positions_without_class": ("deit3_small_patch16_224", {"img_size": 32}),
    "clip": ("vit_base_patch16_clip_224", {"img_size": 32}),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 32}),
    "not_square": ("vit_tiny_patch16_224", {"img_size": (32, 48)}),
    "no_qkv_bias": ("vit_tiny_patch16_224", {"img_size": 32, "qkv_bias": False}),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 28}),  # separate projections, SwiGLU
    "eva02_inner_norm": ("eva02_base_patch14_224", {"img_size": 28, "global_pool": "token"}),
    "eva_post_norm": (
        "eva02_enormous_patch14_clip_224",  # no rotation
        # Attention sees large tokens here; with wide heads it would be saturated, and blind.
        {"img_size": 28, "use_pre_transformer_norm": True, "num_heads": 12},
    ),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 32, "global_pool": "token"}),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", {"img_size": (32, 48)}),
    "perception_encoder": ("vit_pe_core_tiny_patch16_384", {"img_size": 32}),
    "beit": ("beit_base_patch16_224", {"img_size": 32, "global_pool": "token"}),
    "beit_shared_bias": (
        "beit_base_patch16_224",
        {
            "img_size": (32, 48),
            "global_pool": "token",
            "use_rel_pos_bias": False,
            "use_shared_rel_pos_bias": True,
        },
    ),
}


def _shake(model: nn.Module) -> None:
    """Move every parameter away from its initial value, so that each one shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        base = parameter.data if parameter.ndim == 1 else 0
        if parameter.ndim == 1 and parameter.abs().max() < 1e-3:  # biases, and a tiny LayerScale
            base = 0.5
        parameter.data = base + 0.2 * noise


def _build(backbone: str = "class_token", **options: Any) -> PromptedTransformer:
    name, backbone_options = BACKBONES[backbone]
    options = {"num_prompts": PROMPTS, "pretrained": False, **SIZE, **backbone_options, **options}
    model = create_model(name, CLASSES, **options)
    _shake(model)
    return model.eval()


def _plain(model: PromptedTransformer, backbone: str, **options: Any) -> nn.Module:
    """Return timm's own model of a row of the table, with the weights of ``model``."""
    name, backbone_options = BACKBONES[backbone]
    plain = timm.create_model(name, num_classes=CLASSES, **{**SIZE, **backbone_options, **options})
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("prompts.")}
    plain.load_state_dict(weights)  # strict: every name, no other
    return plain.eval()


def _images(model: PromptedTransformer, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 3, *model.patch_embed.img_size, generator=generator)


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build() -> Callable[..., PromptedTransformer]:
    return _build


@pytest.fixture
def plain() -> Callable[..., nn.Module]:
    return _plain


@pytest.fixture
def shake() -> Callable[[nn.Module], None]:
    return _shake


@pytest.fixture
def images() -> Callable[..., Tensor]:
    return _images

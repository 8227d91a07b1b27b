"""The small ViT that ships with the package, so that the demo needs no download.

1.9 M parameters, 32x32 images in 4x4 patches of 8 pixels, pretrained on CIFAR-10's 50,000 training
images by ``experiments/pretrain_demo/`` (its log is there). Registered with timm.
"""

from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

WEIGHTS = Path(__file__).parent / "assets" / "vit_demo.safetensors"

default_cfgs = generate_default_cfgs(
    {
        "vit_demo_patch8_32.cifar10": {
            "file": str(WEIGHTS),
            "num_classes": 0,
            "input_size": (3, 32, 32),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "fixed_input_size": True,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        }
    }
)


@register_model
def vit_demo_patch8_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Build the demo's ViT: width 160, 6 blocks, 5 heads."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 160, "depth": 6, "num_heads": 5}
    model: VisionTransformer = build_model_with_cfg(
        VisionTransformer,
        "vit_demo_patch8_32",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **{**arguments, **kwargs},
    )
    return model

"""Prompted backbones in miniature, of each family, with weights that make prompts matter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.analysis.attention_matrices import BlockAttention, watch_attention
from pcvpt.models import PromptedTransformer, create_model

CLASSES, PROMPTS = 5, 4
SMALL: dict[str, Any] = {"depth": 3, "embed_dim": 48, "num_heads": 3}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "class_token": ("vit_tiny_patch16_224", {"img_size": (32, 48), **SMALL}),
    "average": ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg", **SMALL}),
    "no_class_token": ("vit_base_patch16_siglip_224", {"img_size": 32, **SMALL}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 28, **SMALL}),
    "eva": ("vit_small_patch16_dinov3", {"img_size": 32, "global_pool": "token", **SMALL}),
    "beit": ("beit_base_patch16_224", {"img_size": 32, "global_pool": "token", **SMALL}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
    ),
}


def _build(family: str = "class_token", **options: Any) -> PromptedTransformer:
    name, own = FAMILIES[family]
    options = {"num_prompts": PROMPTS, "pretrained": False, **own, **options}
    model = create_model(name, CLASSES, **options)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        base = parameter.data if parameter.ndim == 1 else 0
        parameter.data = base + 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[name for name in FAMILIES if name != "swin"])
def plain_family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build() -> Callable[..., PromptedTransformer]:
    return _build


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Images for a model, three unless another number is given."""

    def make(model: PromptedTransformer, count: int = 3) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return torch.randn(count, 3, *model.patch_embed.img_size, generator=generator)

    return make


@pytest.fixture
def mask_some() -> Callable[[PromptedTransformer], Tensor]:
    """Mask all but some prompts, other ones in each layer; return the mask."""

    def mask(model: PromptedTransformer) -> Tensor:
        rows = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]]).bool()
        keep = rows[: len(model.prompts.keep)]
        model.prompts.apply_mask(list(keep))
        return keep

    return mask


@pytest.fixture
def seen_in() -> Callable[[PromptedTransformer, Tensor], list[BlockAttention]]:
    """Return the attention of each block."""

    def watch(model: PromptedTransformer, x: Tensor) -> list[BlockAttention]:
        seen: list[BlockAttention] = []
        watch_attention(model, x, seen.append)
        return seen

    return watch


@pytest.fixture
def accuracy() -> Callable[..., float]:
    """Return the accuracy of a model with the prompts of a mask, in percent."""

    def measure(model: PromptedTransformer, batches: Any, keep: Tensor | None = None) -> float:
        before = model.prompts.keep.clone()
        model.prompts.apply_mask(list(before if keep is None else keep))
        with torch.no_grad():
            hits = torch.cat([model(x).argmax(1) == labels for x, labels in batches])
        model.prompts.apply_mask(list(before))
        return 100 * float(hits.double().mean())

    return measure

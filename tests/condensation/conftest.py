"""A small prompted ViT and a few labelled images to score its prompts with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from miniature.backbones import BACKBONES, COMMON
from pcvpt.models import PromptedVisionTransformer, create_model

CLASSES = 5


def _build(**options: Any) -> PromptedVisionTransformer:
    size = {"depth": 3, "embed_dim": 48, "num_heads": 3}
    arguments = {"num_prompts": 4, "pretrained": False, **size, **options}
    model = create_model("vit_demo_patch8_32", CLASSES, **arguments)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # prompts matter more in a model that is not near 0
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture
def build() -> Callable[..., PromptedVisionTransformer]:
    return _build


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(6, 3, 32, 32, generator=generator)
    return images, torch.randint(CLASSES, (6,), generator=generator)


@pytest.fixture(
    params=[
        name if name in COMMON else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES
    ]
)
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)

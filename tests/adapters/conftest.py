"""A trained model, ragged where it has prompts, with the file of its backbone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from miniature.backbones import CLASSES, PROMPTS, arguments, masked, shake
from pcvpt import create_model

Pair = Callable[..., tuple[Any, Path]]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    def build(backbone: str = "class_token", **options: Any) -> tuple[Any, Path]:
        name, sizes = arguments(backbone)
        plain = timm.create_model(name, **{k: v for k, v in sizes.items() if k != "pool_prompts"})
        shake(plain)
        weights = tmp_path / f"{backbone}.pth"
        torch.save(plain.state_dict(), weights)
        prompts = 0 if options.get("mode") == "linear" else PROMPTS
        if not prompts:
            sizes.pop("pool_prompts", None)
        options = {"num_prompts": prompts, "pretrained": weights, **sizes, **options}
        model = create_model(name, CLASSES, **options)
        shake(model.prompts)
        shake(model.get_classifier())  # type: ignore[operator]
        return masked(model.eval()), weights

    return build

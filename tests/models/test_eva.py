"""Rotary backbones: prompts have no position; query heads may share keys and values."""

import inspect
from typing import Any

import pytest
import torch
from timm.models.eva import Eva

from miniature.backbones import PLAIN, assert_close, build, shake
from pcvpt.models import create_model


@pytest.mark.skipif(
    "num_kv_heads" not in inspect.signature(Eva).parameters,
    reason="this version of timm has no grouped-query attention",
)
def test_query_heads_may_share_keys_and_values(mode: Any) -> None:
    options = {**PLAIN, "num_heads": 4, "num_kv_heads": 2, "pretrained": False}
    model = create_model("vit_base_patch16_sapiens2", 5, 4, mode, **options)
    shake(model)
    images = torch.randn(2, 3, 32, 32)
    results = []
    for execution in ("prefix", "tokens"):
        model.execution = execution  # type: ignore[assignment]
        model.zero_grad()
        logits = model(images)
        logits.square().sum().backward()
        results.append((logits.detach(), model.prompts.values.grad.clone()))
    for prefix, tokens in zip(*results, strict=True):
        assert_close(prefix, tokens)
    assert results[0][1].abs().max() > 1e-4


@pytest.mark.parametrize("backbone", ["eva02", "dinov3", "rope_mixed", "perception_encoder"])
def test_a_prompts_key_is_the_same_for_every_image_and_not_rotated(backbone: str) -> None:
    model = build(backbone, mode="deep")
    attention = model.blocks[0].attn
    first, last = model.num_prefix_tokens, 3 + model.num_prefix_tokens
    tokens, angles = torch.randn(2, last, 48), torch.randn(3, 32)
    with torch.no_grad():
        still = attention.project(tokens).joined().k[:, 0]
        rotated = attention.project(tokens, rope=angles).joined().k[:, 0]
    assert torch.equal(still[:, :, :first], rotated[:, :, :first])
    assert not torch.isclose(still[:, :, first:last], rotated[:, :, first:last]).all()
    assert torch.equal(still[:, :, last:], rotated[:, :, last:])
    assert torch.equal(rotated[0, :, last:], rotated[1, :, last:])
    assert rotated.shape[2] == last + 4

"""Rotary backbones against attention as the papers' equations say it, in plain products.

Jia et al., ECCV 2022 (prompts stand between class token and patches, and have no position);
Su et al., arXiv 2104.09864, and Siméoni et al., arXiv 2508.10104 (rotation by two axes).
Axes: b batch, n tokens, p prompts, d width, h heads, c head width.
"""

import inspect
import math
from typing import Any

import pytest
import torch
from timm.models.eva import Eva
from torch import Tensor

from pcvpt.models import PromptedTransformer, create_model
from pcvpt.models.eva import PromptedEva

HEADS, PATCH, TEMPERATURE = 3, 16, 100.0
Weights = dict[str, Tensor]


def _norm(x: Tensor, weights: Weights, name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _angles(rows: int, columns: int, width: int) -> Tensor:
    """Return DINOv3's angle of each patch and pair of channels ``(rows · columns, c / 2)``."""
    axes = [(2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1) for n in (rows, columns)]
    places = torch.cartesian_prod(*axes)
    quarter = width // 4
    periods = TEMPERATURE ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    return (2 * math.pi * places[:, :, None] / periods).flatten(1)


def _rotated(x: Tensor, angles: Tensor, start: int) -> Tensor:
    """Rotate the vectors of the patches, which begin at ``start``; channel i pairs with c/2 + i."""
    first, second = x[:, start:].chunk(2, dim=-1)
    pairs = (
        first * angles.cos() - second * angles.sin(),
        second * angles.cos() + first * angles.sin(),
    )
    return torch.cat([x[:, :start], torch.cat(pairs, dim=-1)], dim=1)


def _block(x: Tensor, weights: Weights, name: str, angles: Tensor) -> Tensor:
    start = x.shape[1] - len(angles)
    width = x.shape[2] // HEADS
    joint = _norm(x, weights, f"{name}.norm1", 1e-5) @ weights[f"{name}.attn.qkv.weight"].T
    query, key, value = joint.chunk(3, dim=2)
    heads = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        q, k = (_rotated(vectors[..., part], angles, start) for vectors in (query, key))
        heads.append((q @ k.mT / math.sqrt(width)).softmax(-1) @ value[..., part])
    mixed = torch.cat(heads, dim=2) @ weights[f"{name}.attn.proj.weight"].T
    x = x + weights[f"{name}.gamma_1"] * (mixed + weights[f"{name}.attn.proj.bias"])
    hidden = _norm(x, weights, f"{name}.norm2", 1e-5) @ weights[f"{name}.mlp.fc1.weight"].T
    hidden = hidden + weights[f"{name}.mlp.fc1.bias"]
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    out = hidden @ weights[f"{name}.mlp.fc2.weight"].T + weights[f"{name}.mlp.fc2.bias"]
    return x + weights[f"{name}.gamma_2"] * out


def _dinov3(weights: Weights, images: Tensor, prompts: list[Tensor]) -> Tensor:
    """Return logits; one tensor (p, d) of prompts is Shallow, one for each block is Deep."""
    batch, channels, height, width = images.shape
    rows, columns = height // PATCH, width // PATCH
    patches = images.reshape(batch, channels, rows, PATCH, columns, PATCH)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    kernel = weights["patch_embed.proj.weight"].flatten(1)
    rest = patches @ kernel.T + weights["patch_embed.proj.bias"]
    first = torch.cat([weights["cls_token"], weights["reg_token"]], dim=1).expand(batch, -1, -1)
    angles = _angles(rows, columns, rest.shape[2] // HEADS)
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    flowing = torch.zeros(0)
    for i in range(depth):
        if i < len(prompts):  # else Shallow: what the block before made of them
            flowing = prompts[i].expand(batch, -1, -1)
        x = _block(torch.cat([first, flowing, rest], dim=1), weights, f"blocks.{i}", angles)
        first, flowing, rest = x.split([first.shape[1], flowing.shape[1], rest.shape[1]], dim=1)
    pooled = _norm(first[:, 0], weights, "norm", 1e-5)
    return pooled @ weights["head.weight"].T + weights["head.bias"]


KEPT = [[True, False, True, True], [False] * 4, [True] * 4]


@pytest.mark.parametrize("masked", [False, True])
def test_logits_and_prompt_gradients_are_those_of_the_equations(
    build: Any, mode: str, execution: str, masked: bool
) -> None:
    model = build("dinov3", mode=mode, execution=execution, img_size=(32, 48)).double()
    images = torch.randn(3, 3, 32, 48, dtype=torch.float64)
    keep = [torch.tensor(row) for row in KEPT[: len(model.prompts.keep)]]
    keep = keep if masked else [torch.ones_like(row) for row in keep]
    model.prompts.apply_mask(keep)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    values = model.prompts.values.detach().clone().requires_grad_()
    expected = _dinov3(
        weights, images, [layer[row] for layer, row in zip(values, keep, strict=True)]
    )
    expected.square().sum().backward()
    logits = model(images)
    logits.square().sum().backward()
    # timm's rotation is computed in float32.
    torch.testing.assert_close(logits.detach(), expected.detach(), rtol=1e-5, atol=1e-5)
    scale = values.grad.abs().max()
    assert (model.prompts.values.grad - values.grad).abs().max() <= 1e-5 * scale


def _grouped(mode: str, execution: str) -> PromptedTransformer:
    options: dict[str, Any] = {"depth": 3, "embed_dim": 48, "num_heads": 4, "img_size": 32}
    options |= {"num_kv_heads": 2, "pretrained": False}
    return create_model("vit_base_patch16_sapiens2", 5, 4, mode, execution, **options)


@pytest.mark.skipif(
    "num_kv_heads" not in inspect.signature(Eva).parameters,
    reason="this version of timm has no grouped-query attention",
)
def test_query_heads_may_share_keys_and_values(shake: Any, mode: Any) -> None:
    model = _grouped(mode, "prefix")
    shake(model)
    images = torch.randn(2, 3, 32, 32)
    results = []
    for execution in ("prefix", "tokens"):
        model.execution = execution
        model.zero_grad()
        logits = model(images)
        logits.square().sum().backward()
        results.append((logits.detach(), model.prompts.values.grad.clone()))
    for prefix, tokens in zip(*results, strict=True):
        assert (prefix - tokens).abs().max() <= 1e-5 * tokens.abs().max()
    assert results[0][1].abs().max() > 1e-4


@pytest.mark.parametrize("backbone", ["eva02", "dinov3", "rope_mixed", "perception_encoder"])
def test_a_prompts_key_is_the_same_for_every_image_and_not_rotated(
    build: Any, backbone: str
) -> None:
    model = build(backbone, mode="deep")
    assert isinstance(model, PromptedEva)
    attention: Any = model.blocks[0].attn
    tokens = torch.randn(2, 3 + model.num_prefix_tokens, 48)
    angles = torch.randn(3, 32)
    with torch.no_grad():
        still = attention.project(tokens).joined().k[:, 0]
        rotated = attention.project(tokens, rope=angles).joined().k[:, 0]
    first, last = model.num_prefix_tokens, 3 + model.num_prefix_tokens
    assert torch.equal(still[:, :, :first], rotated[:, :, :first])
    assert not torch.isclose(still[:, :, first:last], rotated[:, :, first:last]).all()
    assert torch.equal(still[:, :, last:], rotated[:, :, last:])
    assert torch.equal(rotated[0, :, last:], rotated[1, :, last:])
    assert rotated.shape[2] == last + 4

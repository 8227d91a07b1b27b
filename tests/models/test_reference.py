"""The package against papers' equations in plain products.

Jia et al., ECCV 2022, section 3.2: Shallow, eq. 4 and 5; Deep, eq. 6 and 7 (prompts stand between
class token and patches, and have no position). Rotation by two axes: Su et al., arXiv 2104.09864,
and Siméoni et al., arXiv 2508.10104 (DINOv3).

Axes: b batch, n tokens, p prompts, d width, h heads, c head width, k keys.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from miniature.backbones import KEEP, build, masked
from miniature.equations import Weights, affine, mlp, norm

HEADS, PATCH, TEMPERATURE = 3, 16, 100.0


def _angles(rows: int, columns: int, width: int) -> Tensor:
    """Return DINOv3's angle of each patch and pair of channels ``(rows · columns, c / 2)``."""
    axes = [(2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1) for n in (rows, columns)]
    quarter = width // 4
    periods = TEMPERATURE ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    return (2 * math.pi * torch.cartesian_prod(*axes)[:, :, None] / periods).flatten(1)


def _rotated(x: Tensor, angles: Tensor | None) -> Tensor:
    """Rotate the patches, which stand last; channel i pairs with c/2 + i."""
    if angles is None:
        return x
    start = x.shape[1] - len(angles)
    first, second = x[:, start:].chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    pairs = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat([x[:, :start], torch.cat(pairs, dim=-1)], dim=1)


def _block(
    x: Tensor, weights: Weights, name: str, gate: Tensor, angles: Tensor | None, eps: float
) -> Tensor:
    """Apply a pre-norm transformer block; ``gate`` (k,) multiplies unnormalised attention."""
    width = x.shape[2] // HEADS
    joint = affine(norm(x, weights, f"{name}.norm1", eps), weights, f"{name}.attn.qkv")
    heads = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        query, key, value = (vectors[..., part] for vectors in joint.chunk(3, dim=2))
        scores = _rotated(query, angles) @ _rotated(key, angles).mT / math.sqrt(width)
        weight = scores.exp() * gate
        heads.append(weight / weight.sum(-1, keepdim=True) @ value)
    branch = affine(torch.cat(heads, dim=2), weights, f"{name}.attn.proj")
    return mlp(x + weights.get(f"{name}.gamma_1", 1) * branch, weights, name, eps)


def _vpt(weights: Weights, images: Tensor, prompts: list[Tensor], gates: list[Tensor]) -> Tensor:
    """Return logits; one tensor (p, d) of prompts is Shallow, one for each block is Deep."""
    batch, channels, height, width = images.shape
    rows, columns = height // PATCH, width // PATCH
    patches = images.reshape(batch, channels, rows, PATCH, columns, PATCH)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    kernel = weights["patch_embed.proj.weight"].flatten(1)
    rest = patches @ kernel.T + weights["patch_embed.proj.bias"]
    first, angles, eps = weights["cls_token"], None, 1e-6
    if "reg_token" in weights:  # DINOv3
        first = torch.cat([first, weights["reg_token"]], dim=1)
        angles, eps = _angles(rows, columns, rest.shape[2] // HEADS), 1e-5
    else:
        first, rest = first + weights["pos_embed"][:, :1], rest + weights["pos_embed"][:, 1:]
    first = first.expand(batch, -1, -1)
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    flowing = torch.zeros(0)
    for i in range(depth):
        if i < len(prompts):  # else Shallow: the output of the block before
            flowing = prompts[i].expand(batch, -1, -1)
        gate = gates[min(i, len(gates) - 1)]
        sizes = [first.shape[1], flowing.shape[1], rest.shape[1]]
        gate = torch.cat([gate.new_ones(sizes[0]), gate, gate.new_ones(sizes[2])])
        x = torch.cat([first, flowing, rest], dim=1)
        first, flowing, rest = _block(x, weights, f"blocks.{i}", gate, angles, eps).split(sizes, 1)
    return affine(norm(first[:, 0], weights, "norm", eps), weights, "head")


@pytest.mark.parametrize("gate", ["no_gate", "positive", "some_zero"])
@pytest.mark.parametrize("mask", [False, True], ids=["all_kept", "masked"])
@pytest.mark.parametrize("backbone", ["class_token", "dinov3"])
def test_logits_and_gradients_are_those_of_the_papers_equations(
    backbone: str, mode: str, execution: str, mask: bool, gate: str
) -> None:
    model: Any = build(backbone, mode=mode, execution=execution, img_size=(32, 48)).double()
    images = torch.randn(3, 3, 32, 48, dtype=torch.float64)
    if mask:
        masked(model, KEEP)
    keep = model.prompts.keep
    gates = torch.ones(keep.shape, dtype=torch.float64)
    if gate != "no_gate":
        gates = torch.rand(keep.shape, dtype=torch.float64) + 0.5
        gates[:, 3] = 0 if gate == "some_zero" else 1
    weights = {name: value.detach() for name, value in model.named_parameters()}
    values = model.prompts.values.detach().clone().requires_grad_()
    kept, kept_gates = (
        [row[k] for row, k in zip(rows, keep, strict=True)] for rows in (values, gates)
    )
    expected = _vpt(weights, images, kept, kept_gates)
    expected.square().sum().backward()
    with model.prompts.gated(gates.log()[None]):
        logits = model(images)
    logits.square().sum().backward()
    tolerance = 1e-10 if backbone == "class_token" else 1e-5  # timm rotates in float32
    torch.testing.assert_close(logits.detach(), expected.detach(), rtol=tolerance, atol=tolerance)
    scale = values.grad.abs().max()
    assert (model.prompts.values.grad - values.grad).abs().max() <= tolerance * scale
    if gate != "no_gate":  # and the gate is gone again
        assert (model(images) - logits).abs().max() > 1e-3

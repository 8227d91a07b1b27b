"""The package against Visual Prompt Tuning as the paper's equations say it, in plain products.

Jia et al., ECCV 2022, section 3.2: Shallow, eq. 4 and 5; Deep, eq. 6 and 7.
Axes: b batch, n tokens, d width, h heads, c head width, q queries, k keys.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.models import PromptedVisionTransformer

HEADS, PATCH = 3, 16


def _norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _affine(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _block(x: Tensor, weights: dict[str, Tensor], name: str, gate: Tensor) -> Tensor:
    """Apply a pre-norm transformer block; ``gate`` (k,) multiplies unnormalised attention."""
    width = x.shape[2] // HEADS
    joint = _affine(_norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn.qkv")
    query, key, value = joint.chunk(3, dim=2)
    heads = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].mT / math.sqrt(width)
        weight = scores.exp() * gate
        heads.append(weight / weight.sum(-1, keepdim=True) @ value[..., part])
    x = x + _affine(torch.cat(heads, dim=2), weights, f"{name}.attn.proj")
    hidden = _affine(_norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1")
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return x + _affine(hidden, weights, f"{name}.mlp.fc2")


def _vpt(
    weights: dict[str, Tensor], images: Tensor, prompts: list[Tensor], gates: list[Tensor]
) -> Tensor:
    """Return logits; one tensor (p, d) of prompts is Shallow, one for each block is Deep."""
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    kernel = weights["patch_embed.proj.weight"].flatten(1)
    embedded = patches @ kernel.T + weights["patch_embed.proj.bias"]
    first = weights["cls_token"].expand(batch, 1, -1)
    x = torch.cat([first, embedded], dim=1) + weights["pos_embed"]
    cls, rest = x[:, :1], x[:, 1:]
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    flowing = torch.zeros(0)
    for i in range(depth):
        if i < len(prompts):  # else Shallow: what the block before made of them
            flowing = prompts[i].expand(batch, -1, -1)
        gate = gates[min(i, len(gates) - 1)]
        ones = torch.ones(rest.shape[1], dtype=gate.dtype)
        x = torch.cat([cls, flowing, rest], dim=1)
        x = _block(x, weights, f"blocks.{i}", torch.cat([ones[:1], gate, ones]))
        cls, flowing, rest = x.split([1, flowing.shape[1], rest.shape[1]], dim=1)
    return _affine(_norm(cls[:, 0], weights, "norm"), weights, "head")


def _weights(model: PromptedVisionTransformer) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters()}


def test_logits_are_those_of_the_papers_equations(
    build: Any, images: Any, mode: str, execution: str
) -> None:
    model = build(mode=mode, execution=execution).double()
    batch = images(model).double()
    prompts = list(model.prompts.values.detach())
    ones = [torch.ones(len(prompts[0]), dtype=torch.float64)] * len(prompts)
    expected = _vpt(_weights(model), batch, prompts, ones)
    torch.testing.assert_close(model(batch).detach(), expected, rtol=1e-10, atol=1e-10)


def test_a_mask_is_the_papers_model_with_fewer_prompts(
    build: Any, images: Any, mode: str, execution: str
) -> None:
    model = build(mode=mode, execution=execution).double()
    batch = images(model).double()
    keep = [torch.tensor(row) for row in ([True, False, True, True], [False] * 4, [True] * 4)]
    keep = keep[: len(model.prompts.keep)]
    model.prompts.apply_mask(keep)
    prompts = [
        values[kept] for values, kept in zip(model.prompts.values.detach(), keep, strict=True)
    ]
    ones = [torch.ones(len(kept), dtype=torch.float64) for kept in prompts]
    expected = _vpt(_weights(model), batch, prompts, ones)
    torch.testing.assert_close(model(batch).detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("zero", [False, True], ids=["positive", "some_zero"])
def test_the_gate_multiplies_the_unnormalised_attention(
    build: Any, images: Any, mode: str, execution: str, zero: bool
) -> None:
    model = build(mode=mode, execution=execution).double()
    batch = images(model).double()
    gates = torch.rand(model.prompts.keep.shape, dtype=torch.float64) + 0.5
    if zero:
        gates[:, 1] = 0
    prompts = list(model.prompts.values.detach())
    expected = _vpt(_weights(model), batch, prompts, list(gates))
    with model.prompts.gated(gates.log()[None]):
        logits = model(batch).detach()
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    assert (model(batch).detach() - logits).abs().max() > 1e-3  # and the gate is gone again

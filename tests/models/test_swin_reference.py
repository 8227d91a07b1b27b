"""Swin with prompts against its description, in plain products, one window after the other.

Jia et al., ECCV 2022, and their release; Liu et al., ICCV 2021. Each image is computed on its own,
so nothing can pass between the images of a batch.

Axes: n patches of a window, p prompts, k keys (n + p), d width.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.backbones import SWIN, shake
from miniature.equations import Weights, affine, mlp, norm
from pcvpt.models import create_model

HEADS, WINDOW, DEPTH = (2, 4), 4, 2
# Patches: 8 x 12, in 2 x 3 windows; then 4 x 6, which is padded to 4 x 8 and shifted only sideways.
SIZE = (32, 48)
LAYERS = {"deep": 4, "shallow": 1}
MASKS = {
    "all_kept": [[1, 1, 1]] * 4,
    "ragged": [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]],
    "a_stage_with_none": [[0, 0, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]],
    "last_block_with_none": [[0, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 0]],
}
EPS = 1e-5


def _attention(x: Tensor, bias: Tensor, gate: Tensor, weights: Weights, name: str) -> Tensor:
    """Attend within one window: x (k, d), bias (heads, k, k), gate (k) on unnormalised weights."""
    heads = len(bias)
    width = x.shape[1] // heads
    query, key, value = affine(x, weights, f"{name}.qkv").chunk(3, dim=1)
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / math.sqrt(width) + bias[head]
        weight = scores.exp() * gate
        mixed.append(weight / weight.sum(1, keepdim=True) @ value[:, part])
    return affine(torch.cat(mixed, dim=1), weights, f"{name}.proj")


def _bias(table: Tensor, places: list[tuple[int, int]], regions: list[Any], count: int) -> Tensor:
    """Return position bias and shift mask of a window, with zeros for ``count`` prompts."""
    bias = table.new_zeros(table.shape[1], len(places) + count, len(places) + count)
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            up, left = row - other_row + WINDOW - 1, column - other_column + WINDOW - 1
            bias[:, i, j] = table[up * (2 * WINDOW - 1) + left]
            if regions[i] != regions[j]:
                bias[:, i, j] -= 100
    return bias


def _block(
    x: Tensor, prompts: Tensor, gate: Tensor, shifted: bool, weights: Weights, name: str
) -> tuple[Tensor, Tensor]:
    """Apply a block to patches (rows, columns, d) and prompts (p, d)."""
    rows, columns, width = x.shape
    shift = [WINDOW // 2 if shifted and length > WINDOW else 0 for length in (rows, columns)]
    normed = norm(x, weights, f"{name}.norm1", EPS).roll((-shift[0], -shift[1]), (0, 1))
    padded = F.pad(normed, (0, 0, 0, -columns % WINDOW, 0, -rows % WINDOW))
    normed_prompts = norm(prompts, weights, f"{name}.norm1", EPS)
    table = weights[f"{name}.attn.relative_position_bias_table"]
    places = [(i, j) for i in range(WINDOW) for j in range(WINDOW)]
    patches = len(places)
    gates = torch.cat([torch.ones(patches, dtype=gate.dtype), gate])

    def region(position: int, length: int, by: int) -> int:
        """Tell apart what a roll has made neighbours."""
        return 0 if not by else (position >= length - WINDOW) + (position >= length - by)

    joined, of_prompts = torch.zeros_like(padded), []
    for top in range(0, len(padded), WINDOW):
        for left in range(0, padded.shape[1], WINDOW):
            window = padded[top : top + WINDOW, left : left + WINDOW].reshape(patches, width)
            rows_of = [region(top + i, len(padded), shift[0]) for i, _ in places]
            columns_of = [region(left + j, padded.shape[1], shift[1]) for _, j in places]
            regions = list(zip(rows_of, columns_of, strict=True))
            bias = _bias(table, places, regions, len(prompts))
            tokens = torch.cat([window, normed_prompts])
            y = _attention(tokens, bias, gates, weights, f"{name}.attn")
            joined[top : top + WINDOW, left : left + WINDOW] = y[:patches].view(WINDOW, WINDOW, -1)
            of_prompts.append(y[patches:])
    mixed = joined[:rows, :columns].roll((shift[0], shift[1]), (0, 1))
    x, prompts = x + mixed, prompts + torch.stack(of_prompts).mean(0)
    return mlp(x, weights, name, EPS), mlp(prompts, weights, name, EPS)


def _merge(x: Tensor, weights: Weights, name: str) -> Tensor:
    joined = norm(x, weights, f"{name}.norm", EPS)
    return joined @ weights[f"{name}.reduction.weight"].T


def _swin(
    weights: Weights, image: Tensor, prompts: list[Tensor], gates: list[Tensor], pool: bool
) -> Tensor:
    """Return logits; one tensor (p, d) of prompts is Shallow, one for each block is Deep."""
    kernel = weights["patch_embed.proj.weight"].flatten(1)
    cut = image.unfold(1, 4, 4).unfold(2, 4, 4)  # channel, row, column, row and column of a patch
    x = cut.permute(1, 2, 0, 3, 4).flatten(2) @ kernel.T
    x = norm(x + weights["patch_embed.proj.bias"], weights, "patch_embed.norm", EPS)
    flowing, layer = prompts[0], 0
    for stage in range(len(HEADS)):
        if stage:
            four = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
            x = _merge(torch.cat(four, dim=2), weights, f"layers.{stage}.downsample")
            if len(prompts) == 1:  # Deep has others for each block
                repeated = torch.cat([flowing] * 4, dim=1)
                flowing = _merge(repeated, weights, f"layers.{stage}.downsample")
        for i in range(DEPTH):
            flowing = prompts[layer] if len(prompts) > 1 else flowing
            gate = gates[layer if len(prompts) > 1 else 0]
            name = f"layers.{stage}.blocks.{i}"
            x, flowing = _block(x, flowing, gate, i % 2 == 1, weights, name)
            layer += 1
    pooled = norm(x, weights, "norm", EPS).flatten(0, 1)
    if not pool:
        return affine(pooled.mean(0), weights, "head.fc")
    gate = gates[-1]
    total = pooled.sum(0) + gate @ norm(flowing, weights, "norm", EPS)
    return affine(total / (len(pooled) + gate.sum()), weights, "head.fc")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("pool", [False, True], ids=["patches_pooled", "prompts_pooled"])
def test_swin_is_what_the_paper_and_its_release_describe(mode: Any, pool: bool, mask: str) -> None:
    """Logits, and gradients of prompts and gates, in both executions."""
    options: Any = {**SWIN, "depths": (DEPTH, DEPTH), "img_size": SIZE, "pool_prompts": pool}
    model: Any = create_model(
        "swin_tiny_patch4_window7_224", 5, 3, mode, pretrained=False, **options
    )
    shake(model)
    model.eval().double()
    layers = LAYERS[mode]
    keep = torch.tensor(MASKS[mask], dtype=torch.bool)[-layers:]
    if mode == "shallow":
        keep = keep | (torch.arange(3) == 1)  # one prompt at least
    model.prompts.apply_mask(list(keep))
    images, labels = torch.randn(2, 3, *SIZE, dtype=torch.float64), torch.tensor([0, 3])

    weights = {name: value.detach() for name, value in model.named_parameters()}
    values = [model.prompts.layer_values(i).detach().requires_grad_() for i in range(layers)]
    log_gate = (torch.rand(layers, 3, dtype=torch.float64) + 0.5).log().requires_grad_()
    kept = [v[k] for v, k in zip(values, keep, strict=True)]
    kept_gates = [row.exp()[k] for row, k in zip(log_gate, keep, strict=True)]
    expected = torch.stack([_swin(weights, image, kept, kept_gates, pool) for image in images])
    F.cross_entropy(expected, labels).backward()
    # A layer that keeps no prompt is not in the reference's graph.
    wanted_gradients = [torch.zeros(()) if v.grad is None else v.grad for v in values]

    for execution in ("prefix", "tokens"):
        model.execution = execution
        model.zero_grad()
        gate = log_gate.detach().clone().requires_grad_()
        with model.prompts.gated(gate[None]):
            logits = model(images)
        F.cross_entropy(logits, labels).backward()
        gradients = [row for _, run in model.prompts.runs() for row in run.grad]
        pairs = [(logits, expected), (gate.grad, log_gate.grad)]
        for found, wanted in [*pairs, *zip(gradients, wanted_gradients, strict=True)]:
            assert (found - wanted).abs().max() <= 1e-10 * max(1e-2, wanted.abs().max())
            if bool(keep.all()):
                assert wanted.abs().max() > 1e-4  # nothing would be compared otherwise

"""Parts of a transformer in plain products, for tests that compare the package with papers."""

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def norm(x: Tensor, weights: Weights, name: str, eps: float = 1e-6) -> Tensor:
    """Apply a LayerNorm."""
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def affine(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Apply a linear layer, which may have no bias."""
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def mlp(x: Tensor, weights: Weights, name: str, eps: float = 1e-6) -> Tensor:
    """Apply the second branch of a pre-norm block."""
    hidden = affine(norm(x, weights, f"{name}.norm2", eps), weights, f"{name}.mlp.fc1")
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    branch = affine(hidden, weights, f"{name}.mlp.fc2")
    return x + weights.get(f"{name}.gamma_2", 1) * branch

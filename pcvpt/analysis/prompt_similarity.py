"""Similarity and norms of prompts.

Axes: l layers, p prompts, n kept prompts of all layers.
"""

import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor

from pcvpt.models.prompt_bank import PromptBank


@torch.no_grad()
def prompt_similarity(bank: PromptBank, most: int = 512) -> tuple[Tensor, Tensor]:
    """Return the cosine between any two kept prompts, and the layer of each.

    Prompts of a layer stand in the order of the leaves of their average linkage (Sokal and
    Michener, 1958) by cosine distance, so near-copies are neighbours. Of more than ``most``, an
    evenly spaced selection is taken. Cosines ``(n, n)`` are NaN between layers of different widths;
    layers ``(n,)`` are ascending. Both are on the CPU.
    """
    keep = bank.keep.cpu()
    layers = keep.nonzero()[:, 0]
    values = bank.stack().detach().float().cpu()[keep]
    if len(layers) > most:
        picked = torch.arange(most) * len(layers) // most
        layers, values = layers[picked], values[picked]
    directions = F.normalize(values, dim=1)
    order = [
        of_layer[_leaves(directions[of_layer])]
        for layer in layers.unique()
        for of_layer in [(layers == layer).nonzero()[:, 0]]
    ]
    directions = directions[torch.cat(order)] if order else directions
    stages = torch.tensor(bank.stages, dtype=torch.int64)[layers]
    apart = stages[:, None] != stages
    return (directions @ directions.T).masked_fill(apart, float("nan")), layers


def _leaves(directions: Tensor) -> Tensor:
    """Return the order of vectors ``(n, d)`` of length 1 in which similar ones are neighbours."""
    if len(directions) < 3:
        return torch.arange(len(directions))
    # The square of the distance between vectors of length 1 is twice the cosine distance.
    tree = linkage(directions.numpy(), "average", "sqeuclidean", optimal_ordering=True)
    return torch.from_numpy(leaves_list(tree)).long()


@torch.no_grad()
def prompt_norms(bank: PromptBank) -> Tensor:
    """Return the mean Euclidean norm ``(l,)`` of each layer's kept prompts, on their device.

    It is NaN for a layer that keeps none.
    """
    norms = bank.stack().detach().float().norm(dim=2).where(bank.keep, 0)
    mean: Tensor = norms.sum(1) / bank.keep.sum(1)
    return mean

"""How alike prompts are.

Axes: l layers, p prompts, n kept prompts over all layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcvpt.models.prompt_bank import PromptBank


@torch.no_grad()
def prompt_similarity(bank: PromptBank, most: int = 512) -> tuple[Tensor, Tensor]:
    """Return the cosine between any two kept prompts, and the layer that each is of.

    Args:
        bank: the prompts.
        most: with more kept prompts than this, so many at even distances stand for all.

    Returns:
        Cosines ``(n, n)``, NaN between layers of different widths, and layers ``(n,)``, ascending,
        on the CPU.
    """
    keep = bank.keep.cpu()
    layers = keep.nonzero()[:, 0]
    values = bank.stack().detach().float().cpu()[keep]
    if len(layers) > most:
        picked = torch.arange(most) * len(layers) // most
        layers, values = layers[picked], values[picked]
    directions = F.normalize(values, dim=1)
    stages = torch.tensor(bank.stages, dtype=torch.int64)[layers]
    apart = stages[:, None] != stages
    return (directions @ directions.T).masked_fill(apart, float("nan")), layers


@torch.no_grad()
def prompt_norms(bank: PromptBank) -> Tensor:
    """Return the mean Euclidean norm ``(l,)`` of each layer's kept prompts; NaN where it has none.

    The result is on the device of the prompts.
    """
    norms = bank.stack().detach().float().norm(dim=2).where(bank.keep, 0)
    mean: Tensor = norms.sum(1) / bank.keep.sum(1)
    return mean

"""How far two scores of the same prompts agree."""

import torch
from torch import Tensor


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation, in [-1, 1], of two tensors of the same shape.

    Ties share their mean rank; NaN when one side is constant.
    """
    ranks = torch.stack([_ranks(first.flatten()), _ranks(second.flatten())])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = values.double().unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts - 1) / 2)[inverse]
    return ranks

"""Agreement of two rankings."""

import warnings

from scipy.stats import ConstantInputWarning, spearmanr
from torch import Tensor


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation of two tensors of one shape; NaN if one is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(*(x.flatten().cpu().numpy() for x in (first, second))).statistic)

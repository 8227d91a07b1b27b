"""Which prompts of a head to merge, from all of them down to none.

In a query row, n prompts with attention weights a_j and values v_j are replaced by one whose
attention weight is a and whose value is v. With y the output of the row, the output changes by

    Δy = (a·(v - y) - Σ a_j·(v_j - y)) / (1 + a - Σ a_j),

and the cost of a merge is the mean of (g·Δy)² over rows (:mod:`pcvpt.condensation.attention_rows`).
The merged key and value are the means of the n, weighted by the attention that each gets over all
rows. Its score is then the same mean of their scores, since a score is linear in the key, plus a
bias with which it gets as much attention over all rows as the n together. For equal prompts the
bias is log n and the cost 0. A prompt may also be dropped, which is merging it into nothing.

The path is greedy: each step makes the cheapest of all merges of two clusters, and of all drops.
The cost of a cluster is that of its members as they were, as in Ward's method (Ward, JASA 1963).

Axes: r query rows, p prompts.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

TINY = 1e-300  # an attention weight that is as good as none
_LEAST = 1e-6  # of the attention that is left for what is not dropped
_PART = 64  # pairs at a time, so that their matrices stay in the cache


class Steps(NamedTuple):
    """Merges of the prompts of one head, one step after another, down to none.

    In a merge (i, j), cluster j joins cluster i; j is dropped where i is -1. A cluster has the
    number of one of its prompts.
    """

    costs: Array  # with 0, 1, ..., p clusters left (p + 1,)
    merges: list[tuple[int, int]]


class MergePath(NamedTuple):
    """The cheaper of two ways at each number of clusters: merges and drops, or drops alone."""

    ways: tuple[Steps, Steps]

    @property
    def costs(self) -> Array:
        """The cost with 0, 1, ..., p clusters left ``(p + 1,)``."""
        return np.minimum(*(way.costs for way in self.ways))

    def assignment(self, left: int) -> Tensor:
        """Return for each prompt the number of its cluster ``(p,)``, -1 where it is dropped.

        The numbers are 0 to ``left`` - 1.
        """
        way = min(self.ways, key=lambda way: float(way.costs[left]))
        cluster = np.arange(len(way.merges))
        for into, gone in way.merges[: len(way.merges) - left]:
            cluster[cluster == gone] = into
        names = np.unique(cluster[cluster >= 0])
        return torch.from_numpy(np.where(cluster < 0, -1, np.searchsorted(names, cluster)))


def merge_path(log_share: Tensor, effect: Tensor, means: bool = True) -> MergePath:
    """Return the path of the prompts of one head.

    Args:
        log_share: Logarithm of the attention weights ``(r, p)`` in float64.
        effect: g·(v - y) of each prompt ``(r, p)`` in float64.
        means: Merge to the mean of a cluster. Else to its prompt with the most attention.
    """
    own = log_share.T.numpy(), effect.T.numpy(), means
    return MergePath((_Clusters(*own).run(merge=True), _Clusters(*own).run(merge=False)))


class _Clusters:
    """The n clusters that are left, in the first n rows of every matrix.

    In numpy, whose operations use one thread each, so that heads can be computed side by side.
    """

    def __init__(self, log_share: Array, effect: Array, means: bool) -> None:
        self.n, self.means = len(log_share), means
        self.log_share, self.effect = log_share.copy("C"), effect.copy("C")  # of merged prompts
        self.mass = np.exp(self.log_share)  # Σ a_j of the members
        self.pull = self.mass * self.effect  # Σ a_j g·(v_j - y)
        self.total = self.mass.sum(1).clip(TINY)
        self.log_share -= self.log_share.max(1, keepdims=True)  # a constant of each does not matter
        self.weight = self.total.copy()
        self.cost = np.zeros(self.n)
        self.name = np.arange(self.n)
        self.pairs = np.full((self.n, self.n), np.inf)  # symmetric
        self.lost_mass, self.lost_pull = np.zeros((2, log_share.shape[1]))
        self.lost_cost = 0.0

    def run(self, merge: bool) -> Steps:
        """Take the cheapest step until nothing is left, of merges too or of drops alone."""
        costs, merges = np.zeros(self.n + 1), []
        for i in range(self.n - 1 if merge else 0):
            self._set_pairs(i, slice(i + 1, self.n))
        while self.n:
            drops = self._drop_costs()
            i, j = -1, int(drops.argmin())
            if merge:
                pairs = self.pairs[: self.n, : self.n]
                first, second = divmod(int(pairs.argmin()), self.n)
                if pairs[first, second] < drops[j]:
                    i, j = first, second
            merges.append((int(self.name[i]) if i >= 0 else -1, int(self.name[j])))
            if i >= 0:
                self._merge(i, j)
            else:
                self.lost_mass += self.mass[j]
                self.lost_pull += self.pull[j]
                self.lost_cost += drops[j] + self.cost[j]
            self._remove(j)
            if i >= 0 and self.n > 1:
                self._set_pairs(j if i == self.n else i, slice(0, self.n))
            costs[self.n] = self.cost[: self.n].sum() + self.lost_cost
        return Steps(costs, merges)

    def _joined(self, i: int, others: slice) -> tuple[Array, Array, Array]:
        """Return log share up to a constant, share and effect of i joined with each."""
        own, other = self.weight[i], self.weight[others, None]
        part = own / (own + other) if self.means else (own >= other).astype(float)
        both = self.log_share, self.effect
        log_share, effect = (whole[i] - whole[others] for whole in both)
        for mean, whole in zip((log_share, effect), both, strict=True):
            mean *= part
            mean += whole[others]
        share = np.exp(log_share)
        share *= ((self.total[others] + self.total[i]) / share.sum(1).clip(TINY))[:, None]
        return log_share, share, effect

    def _set_pairs(self, i: int, others: slice) -> None:
        """Compute the costs of joining cluster i with each of ``others``."""
        for start in range(others.start, others.stop, _PART):
            part = slice(start, min(start + _PART, others.stop))
            _, share, change = self._joined(i, part)
            change *= share
            change -= self.pull[part]
            change -= self.pull[i]
            share -= self.mass[part]
            share += 1 - self.mass[i]
            change /= np.maximum(share, _LEAST, out=share)
            costs = np.einsum("pr,pr->p", change, change) / change.shape[1]
            costs -= self.cost[part] + self.cost[i]
            self.pairs[i, part] = self.pairs[part, i] = costs
        self.pairs[i, i] = np.inf

    def _drop_costs(self) -> Array:
        change = self.lost_pull + self.pull[: self.n]
        change /= (1 - self.lost_mass - self.mass[: self.n]).clip(_LEAST)
        mean: Array = np.einsum("pr,pr->p", change, change) / change.shape[1]
        return mean - self.lost_cost - self.cost[: self.n]

    def _merge(self, i: int, j: int) -> None:
        log_share, _, effect = self._joined(i, slice(j, j + 1))
        self.cost[i] += self.cost[j] + self.pairs[i, j]
        self.log_share[i], self.effect[i] = log_share[0], effect[0]
        self.mass[i] += self.mass[j]
        self.pull[i] += self.pull[j]
        self.total[i] += self.total[j]
        self.weight[i] = (np.add if self.means else np.maximum)(self.weight[i], self.weight[j])

    def _remove(self, j: int) -> None:
        """Put the last cluster in the place of cluster j."""
        self.n -= 1
        own = self.log_share, self.effect, self.mass, self.pull, self.total, self.weight
        for rows in (*own, self.cost, self.name, self.pairs, self.pairs.T):
            rows[j] = rows[self.n]
        self.pairs[j, j] = np.inf

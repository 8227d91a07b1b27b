"""Merging of prompts in the space of keys and values, without labels and without training.

A query q sees prompts only through Σ exp(q·k_j) and Σ exp(q·k_j) v_j. So n equal prompts are
exactly one whose attention score has the bias log n, and prompts that are nearly equal are nearly
one. Each head merges its own prompts (:mod:`pcvpt.condensation.merge_path`); all heads of a block
end with the same number. How many a block keeps follows from the costs of all blocks.

This is this project's own method. No paper was found that merges visual prompts.

Axes: l layers, h heads, r query rows, p prompts before, k after, c head width.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import overload

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from pcvpt.condensation.attention_rows import Rows, attention_rows
from pcvpt.condensation.merge_path import TINY, Array, MergePath, merge_path
from pcvpt.condensation.scoring import Batches
from pcvpt.condensation.selection import Scope, select_prompts
from pcvpt.errors import UsageError
from pcvpt.models.prompt_bank import Form, MergedLayer
from pcvpt.models.transformer import PromptedTransformer


@overload
def merge_prompts(
    model: PromptedTransformer,
    batches: Batches,
    keep: float | None = 0.1,
    scope: Scope = "global",
    *,
    count: int | None = None,
    form: Form | None = None,
    seed: int = 0,
) -> list[MergedLayer]: ...


@overload
def merge_prompts(
    model: PromptedTransformer,
    batches: Batches,
    keep: Sequence[float],
    scope: Scope = "global",
    *,
    form: Form | None = None,
    seed: int = 0,
) -> list[list[MergedLayer]]: ...


def merge_prompts(
    model: PromptedTransformer,
    batches: Batches,
    keep: float | Sequence[float] | None = 0.1,
    scope: Scope = "global",
    *,
    count: int | None = None,
    form: Form | None = None,
    seed: int = 0,
) -> list[MergedLayer] | list[list[MergedLayer]]:
    """Merge the prompts of ``model`` to a part of their number; the model stays unchanged.

    ``model.prompts.apply_merge`` puts the result in. Between 100 and 200 images, evenly from all
    classes, are enough; each takes one forward and one backward pass.

    Args:
        model: Model with prompts.
        batches: Batches whose first element are normalised images ``(b, 3, h, w)``. Labels are not
            read.
        keep: Fraction of all prompts that is left, in (0, 1]. For several fractions the result has
            one entry for each, from one pass over the images. Default: 0.1.
        scope: Blocks that share a budget, as in :func:`pcvpt.select_prompts`. Default: "global".
        count: Number of prompts instead of a fraction, with ``keep=None``. Default: None.
        form: Form of the merged prompts. "key_value": keys and values, with a bias for each head.
            "token": of each cluster the token that gets the most attention, with one bias for all
            heads (the block's LayerNorm does not keep a mean of tokens). Default: "key_value" where
            the model takes it, else "token".
        seed: Seed of the sample of query rows. Default: 0.

    Returns:
        For each layer the merged prompts, a :class:`~pcvpt.models.prompt_bank.MergedLayer`; for
        several fractions a list of such lists.

    Raises:
        UsageError: If the model has no prompts or does not take the form, there are no images, or a
            number is out of its range.
    """
    form, bank = merged_form(model, form), model.prompts
    budgets = list(keep) if isinstance(keep, Sequence) else [keep]
    for budget in budgets:  # a wrong one is refused before the passes
        select_prompts(list(bank.keep.float()), budget, scope, count=count, stages=bank.stages)
    tree = merge_tree(model, batches, form, seed=seed)
    merged = [tree.cut(budget, scope, count=count) for budget in budgets]
    return merged if isinstance(keep, Sequence) else merged[0]


def evenly(batches: Batches, total: int, count: int = 200) -> Iterator[tuple[Tensor]]:
    """Yield the images of about ``count`` of ``total``, at equal distances, in batches.

    Images of a folder come class by class, so the first ones would be of few classes.
    """
    every, seen = max(1, total // count), 0
    for images, *_ in batches:
        chosen = images[-seen % every :: every]
        seen += len(images)
        if len(chosen):
            yield (chosen,)


@dataclass
class MergeTree:
    """All merges of the prompts of a model, from which each budget is cut.

    Attributes:
        scores: Vector ``(p,)`` for each layer. Its i-th number is the cost of the step from i + 1
            prompts to i, made increasing by the lower convex hull of the costs; -inf for prompts
            that were masked before. The largest numbers of all layers are the steps not to take.
    """

    scores: list[Tensor]
    stages: list[int]
    layers: "list[_Layer]"

    def cut(
        self, keep: float | None = 0.1, scope: Scope = "global", *, count: int | None = None
    ) -> list[MergedLayer]:
        """Return the merged prompts of a budget; for the arguments see :func:`merge_prompts`."""
        return self.at(select_prompts(self.scores, keep, scope, count=count, stages=self.stages))

    def at(self, kept: Sequence[Tensor]) -> list[MergedLayer]:
        """Return the merged prompts of a selection among :attr:`scores`, a mask for each layer."""
        return [layer.cut(int(mask.sum())) for layer, mask in zip(self.layers, kept, strict=True)]


def merge_tree(
    model: PromptedTransformer, batches: Batches, form: Form | None = None, *, seed: int = 0
) -> MergeTree:
    """Find the merges of every budget at once; for the arguments see :func:`merge_prompts`."""
    form, bank = merged_form(model, form), model.prompts
    rows = attention_rows(model, batches, seed)
    by_layer = [[of_block] for of_block in rows] if model.has_own_prompts else [rows]
    with torch.no_grad(), torch.autocast(bank.device.type, enabled=False):
        layers = [_layer(model, number, form, of) for number, of in enumerate(by_layer)]
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        paths = [
            pool.map(merge_path, layer.log_share, layer.effect, repeat(form == "key_value"))
            for layer in layers
        ]
        for layer, of_heads in zip(layers, paths, strict=True):
            layer.paths = list(of_heads)
    scores = torch.full(bank.keep.shape, float("-inf"), dtype=torch.float64)
    for score, layer in zip(scores, layers, strict=True):
        if len(layer.kept):
            # The slopes of a curve's lower convex hull are the isotonic regression of its steps.
            slopes = isotonic_regression(np.diff(layer.costs())).x
            score[: len(slopes)] = -torch.from_numpy(slopes)
    return MergeTree(list(scores), bank.stages, layers)


def merged_form(model: PromptedTransformer, form: Form | None) -> Form:
    """Return the form of merged prompts, the model's best one where it is not given.

    A UsageError is raised if the model has no prompts, or does not take the form.
    """
    bank = model.prompts
    if bank.keep.numel() == 0:
        raise UsageError("the model has no prompts to merge (mode 'linear')")
    bank.require_thawed()
    if form is None:
        return "token" if model.why_tokens() else "key_value"
    if form == "key_value":
        model.require_key_value()
    elif form != "token" or bank.form == "key_value":
        raise UsageError(
            f"form {form!r}, but the prompts are of form {bank.form!r}; choose 'key_value'"
        )
    return form


@dataclass
class _Layer:
    """One layer of prompts and what is known of it; h is 1 where all heads merge alike.

    The effect is scaled so that the mean of the square of a change is half a divergence in nats.
    """

    log_share: Tensor  # logarithm of the attention weights (h, r, p)
    effect: Tensor  # (h, r, p)
    values: Tensor  # tokens (1, p, d), or keys and values of each head (h, p, 2c)
    log_weight: Tensor  # bias of the prompts as they are (h or 1, p)
    kept: Tensor  # positions (p,) of these prompts among all of the bank
    prompts: int  # of the bank's layer
    is_key_value: bool
    paths: list[MergePath]  # of each head

    def costs(self) -> Array:
        """Return the cost with 0, 1, ..., p prompts left ``(p + 1,)``."""
        total: Array = np.sum([path.costs for path in self.paths], axis=0)
        return total

    def cut(self, left: int) -> MergedLayer:
        """Return the prompts of this layer, merged to ``left``."""
        own = torch.stack([path.assignment(left) for path in self.paths])  # h p
        member = own[:, None] == torch.arange(left)[:, None]  # h k p
        part = self.log_share.exp().mean(1)[:, None].clamp(min=TINY) * member
        if self.is_key_value:
            part = part / part.sum(2, keepdim=True)
            of_heads = (part @ self.values).unflatten(2, (2, -1))  # h k 2 c
            values = of_heads.permute(1, 2, 0, 3).flatten(1)
        else:  # one prompt stands for each cluster, of equal ones too
            first = part.topk(min(1, part.shape[2]), dim=2).indices
            part = torch.zeros_like(part).scatter_(2, first, 1)
            values = (part @ self.values)[0]
        total = self.log_share.logsumexp(1)[:, None]  # the attention of each prompt, over all rows
        bias = total.where(member, float("-inf")).logsumexp(2)
        bias -= (part @ self.log_share.mT).logsumexp(2)
        bias += (part * self.log_weight[:, None]).sum(2)
        assignment = torch.full((len(own), self.prompts), -1)
        assignment[:, self.kept] = own
        return MergedLayer(values, bias, assignment, float(self.costs()[left]))


def _layer(model: PromptedTransformer, number: int, form: Form, blocks: Sequence[Rows]) -> _Layer:
    """Return layer ``number``; ``blocks`` are the blocks that its prompts act in."""
    bank = model.prompts
    kept = bank.keep[number].nonzero().squeeze(1)
    tokens = bank.layer_values(number).detach()[kept]
    weight, _ = bank.bias(number)
    log_weight = torch.zeros(1, len(kept)) if weight is None else weight[0]
    log_share = [block.log_share for block in blocks]
    # Half of the sum of (g·Δy)² over the rows of an image; the rows are a sample of them.
    effect = [block.effect * (block.per_image / 2) ** 0.5 for block in blocks]
    if form == "key_value":
        if bank.form == "token":
            tokens = model.as_prompts(number, tokens, form)
        values = tokens.unflatten(1, (2, bank.heads[number][0], -1))  # p 2 h c
        values = values.permute(2, 0, 1, 3).flatten(2)
    else:  # the rows of all heads and blocks decide together
        values, sizes = tokens[None], [part.shape[:2].numel() for part in log_share]
        effect = [part * (sum(sizes) / part.shape[1]) ** 0.5 for part in effect]
        log_share, effect = (
            [torch.cat([part.flatten(0, 1) for part in parts])[None]]
            for parts in (log_share, effect)
        )
    own = values.double().cpu(), log_weight.double().cpu(), kept.cpu(), bank.keep.shape[1]
    return _Layer(log_share[0], effect[0], *own, form == "key_value", [])

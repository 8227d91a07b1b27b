"""Attention between prompts and patches, and rollouts that trace the output to both.

In VPT-Deep what a prompt's query reads is dropped after its block, so a prompt acts only by the
attention that it receives. Its query exists in the execution "tokens" alone, and tells what it
would read. How much attention the pooled tokens pay to each prompt is
:func:`~pcvpt.analysis.forward_pass.attention_to_prompts`.

No model is changed. Images ``(b, 3, height, width)`` are normalised.

Axes: b images, m chosen prompts, p prompts of a layer, l layers of the bank, k tokens and prompts
of one sequence; gh, gw rows and columns of patches.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcvpt.analysis.attention_matrices import BlockAttention, require_prompts, watch_attention
from pcvpt.analysis.forward_pass import pooled_tokens
from pcvpt.errors import UsageError
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.models.swin import PromptedSwinTransformer
from pcvpt.models.transformer import PromptedTransformer


class PromptMaps(NamedTuple):
    """Attention between chosen prompts and patches, ``(b, m, gh, gw)``, mean over heads."""

    from_prompts: Tensor | None  # None where prompts are keys and values, which have no query
    to_prompts: Tensor


class Rollout(NamedTuple):
    """Shares of the input in what the head reads; they sum to 1 for each image."""

    patches: Tensor  # (b, gh, gw)
    others: Tensor  # of class token and registers (b,)
    prompts: Tensor  # of each prompt in the layer where it enters (b, l, p); 0 if masked


def prompt_maps(
    model: PromptedTransformer, images: Tensor, chosen: Sequence[tuple[int, int]]
) -> PromptMaps:
    """Return the attention between patches and the ``chosen`` prompts.

    They are (layer, prompt) of kept prompts, such as :func:`strongest` returns. In Shallow, where a
    prompt is in every block, it is the mean over blocks. A UsageError is raised if a prompt is
    masked, if the model is a Swin, whose windows have no row over the whole image, and as in
    :func:`~pcvpt.analysis.attention_matrices.watch_attention`.
    """
    require_global_attention(model)
    bank, grid = model.prompts, model.patch_embed.grid_size
    for layer, prompt in chosen:
        if not bank.keep[layer, prompt]:
            raise UsageError(f"prompt {prompt} of layer {layer} is masked and has no attention")
    blocks_per_layer = len(model.blocks) // len(bank.keep)
    from_prompts = torch.zeros(len(images), len(chosen), *grid, dtype=torch.float64)
    to_prompts = torch.zeros_like(from_prompts)

    def add(seen: BlockAttention) -> None:
        weights = seen.weights[:, 0].mean(1).cpu()  # b k k
        tokens = weights.shape[1] - seen.prompts
        first = model.num_prefix_tokens
        for i, (layer, prompt) in enumerate(chosen):
            if layer == seen.layer:
                place = tokens + int(bank.keep[layer, :prompt].sum())
                row, column = weights[:, place, first:tokens], weights[:, first:tokens, place]
                from_prompts[:, i] += row.unflatten(1, grid) / blocks_per_layer
                to_prompts[:, i] += column.unflatten(1, grid) / blocks_per_layer

    watch_attention(model, images, add)
    return PromptMaps(from_prompts if bank.form == "token" else None, to_prompts)


def rollout(model: PromptedTransformer, images: Tensor, prompts: bool = True) -> Rollout:
    """Trace what the head reads back to patches and prompts.

    Attention rollout (Abnar and Zuidema, ACL 2020, arXiv 2005.00928, section 3): the product over
    blocks of (A + I) / 2, where A is the mean over heads. In Deep, prompts enter at each block and
    what they read is dropped. So the rows of tokens are multiplied on to the block before, and the
    columns of prompts end in their block. Without ``prompts`` all of them are masked first. A
    UsageError is raised if the model is a Swin, in whose windows there is no such product, and as
    in :func:`~pcvpt.analysis.attention_matrices.watch_attention`.
    """
    require_global_attention(model)
    bank, grid = model.prompts, model.patch_embed.grid_size
    steps: list[BlockAttention] = []

    def note(seen: BlockAttention) -> None:
        steps.append(seen._replace(weights=seen.weights[:, 0].mean(1)))  # b k k

    shares = torch.zeros(len(images), *bank.keep.shape, dtype=torch.float64, device=bank.device)
    with evaluating(model):
        if not prompts:
            bank.apply_mask(list(torch.zeros_like(bank.keep)))
        keep = bank.keep.clone()
        watch_attention(model, images, note)
    tokens = steps[-1].weights.shape[1] - steps[-1].prompts
    flow = torch.zeros(len(images), 1, tokens, dtype=torch.float64, device=bank.device)
    pooled = pooled_tokens(model)
    flow[..., pooled] = 1 / len(range(*pooled.indices(tokens)))
    for step in reversed(steps):
        deep = model.has_own_prompts
        if deep or step.block == len(steps) - 1:
            flow = torch.cat([flow, flow.new_zeros(len(images), 1, step.prompts)], dim=2)
        flow = (flow @ step.weights + flow) / 2
        if deep or step.block == 0:
            flow, ended = flow.split([tokens, step.prompts], dim=2)
            shares[:, step.layer, keep[step.layer]] = ended[:, 0]
    others, patches = flow[:, 0].split([model.num_prefix_tokens, grid[0] * grid[1]], dim=1)
    return Rollout(patches.unflatten(1, grid).cpu(), others.sum(1).cpu(), shares.cpu())


def strongest(strength: Tensor, keep: Tensor, count: int) -> list[tuple[int, int]]:
    """Return (layer, prompt) of the ``count`` kept prompts of the highest ``strength`` (l, p)."""
    lowest = torch.finfo(torch.float64).min
    ranked = strength.double().nan_to_num(lowest).masked_fill(~keep, float("-inf"))
    count = min(count, int(keep.sum()))
    order = ranked.flatten().sort(descending=True, stable=True).indices[:count].tolist()
    return [divmod(place, keep.shape[1]) for place in order]


def require_global_attention(model: PromptedTransformer) -> None:
    """Raise a UsageError unless each token of ``model`` attends to the whole image."""
    require_prompts(model)
    if isinstance(model, PromptedSwinTransformer):
        raise UsageError("Swin attends within windows: no map over the image, and no rollout")

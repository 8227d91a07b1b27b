"""Where prompts look, who looks at them, and how much of the output is traced back to them.

In VPT-Deep what a prompt reads is discarded after its block, so that it acts by its column alone:
by the attention it receives. Its row, which the token form has, tells what its query would fetch.

What the head reads stands for the output: the class token, or else the mean over the patches. How
much that pays to each prompt in each block is
:func:`~pcvpt.analysis.forward_pass.attention_to_prompts`.

Axes: b images, w windows, h heads, n tokens of the image, m prompts that are looked at, p prompts
of a layer, l layers of the bank, k = n + p; gh, gw the grid of patches.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcvpt.analysis.attention_matrices import (
    BlockAttention,
    left_as_it_was,
    require_prompts,
    watch_attention,
)
from pcvpt.errors import UsageError
from pcvpt.models.swin import PromptedSwinTransformer
from pcvpt.models.transformer import PromptedTransformer


class Maps(NamedTuple):
    """Attention between prompts and patches, mean over heads.

    Attributes:
        looks: of each prompt to each patch, ``(b, m, gh, gw)``.
        seen: of each patch to each prompt, ``(b, m, gh, gw)``.
    """

    looks: Tensor
    seen: Tensor


class Rollout(NamedTuple):
    """What the head reads, traced back to what entered: shares that sum to 1 for each image.

    Attributes:
        patches: of the image's patches, ``(b, gh, gw)``.
        others: of class token and registers, ``(b,)``.
        prompts: of each prompt where it entered, ``(b, l, p)``; 0 of masked ones.
    """

    patches: Tensor
    others: Tensor
    prompts: Tensor


def prompt_maps(
    model: PromptedTransformer, images: Tensor, chosen: Sequence[tuple[int, int]]
) -> Maps:
    """Return where the ``chosen`` prompts look, and which patches look at them.

    In Shallow, where a prompt is in every block, the mean over blocks.

    Args:
        model: with prompts; left as it was.
        images: normalised, ``(b, 3, height, width)``.
        chosen: (layer, prompt) of kept prompts, such as of :func:`strongest`.

    Raises:
        UsageError: for Swin, whose windows have no row over the whole image; for a prompt that is
            masked; and as :func:`~pcvpt.analysis.attention_matrices.watch_attention`.
    """
    require_global_attention(model)
    bank, grid = model.prompts, _grid(model)
    for layer, prompt in chosen:
        if not bank.keep[layer, prompt]:
            raise UsageError(f"prompt {prompt} of layer {layer} is masked and looks nowhere")
    blocks_per_layer = len(model.blocks) // len(bank.keep)
    looks = torch.zeros(len(images), len(chosen), *grid, dtype=torch.float64)
    seen_by = torch.zeros_like(looks)

    def note(seen: BlockAttention) -> None:
        weights = seen.weights[:, 0].mean(1).cpu()  # b k k
        tokens = weights.shape[1] - seen.prompts
        first = model.num_prefix_tokens
        for i, (layer, prompt) in enumerate(chosen):
            if layer == seen.layer:
                place = tokens + int(bank.keep[layer, :prompt].sum())
                row, column = weights[:, place, first:tokens], weights[:, first:tokens, place]
                looks[:, i] += row.unflatten(1, grid) / blocks_per_layer
                seen_by[:, i] += column.unflatten(1, grid) / blocks_per_layer

    watch_attention(model, images, note)
    return Maps(looks, seen_by)


def rollout(model: PromptedTransformer, images: Tensor, prompts: bool = True) -> Rollout:
    """Trace what the head reads back to patches and prompts.

    Attention rollout (Abnar and Zuidema, ACL 2020, arXiv 2005.00928, section 3): the product over
    blocks of (A + I) / 2, A the mean over heads. In Deep, prompts enter at each block and what they
    read is dropped, so that of each block's matrix the rows of the tokens go on to the block
    before, and the columns of the prompts end there.

    Args:
        model: with prompts; left as it was.
        images: normalised, ``(b, 3, height, width)``.
        prompts: False masks all prompts first.

    Raises:
        UsageError: for Swin, in whose windows there is no such product; and as
            :func:`~pcvpt.analysis.attention_matrices.watch_attention`.
    """
    require_global_attention(model)
    bank, grid = model.prompts, _grid(model)
    steps: list[BlockAttention] = []

    def note(seen: BlockAttention) -> None:
        steps.append(seen._replace(weights=seen.weights[:, 0].mean(1)))  # b k k

    shares = torch.zeros(len(images), *bank.keep.shape, dtype=torch.float64, device=bank.device)
    with left_as_it_was(model):
        if not prompts:
            bank.apply_mask(list(torch.zeros_like(bank.keep)))
        keep = bank.keep.clone()
        watch_attention(model, images, note)
    tokens = steps[-1].weights.shape[1] - steps[-1].prompts
    flow = torch.zeros(len(images), 1, tokens, dtype=torch.float64, device=bank.device)
    rows = _read_rows(model, tokens)
    flow[..., rows] = 1 / len(range(*rows.indices(tokens)))
    for step in reversed(steps):
        deep = model.mode == "deep"
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
    ranked = (
        strength.double()
        .nan_to_num(torch.finfo(torch.float64).min)
        .masked_fill(~keep, float("-inf"))
    )
    count = min(count, int(keep.sum()))
    order = ranked.flatten().sort(descending=True, stable=True).indices[:count].tolist()
    return [divmod(place, keep.shape[1]) for place in order]


def require_global_attention(model: PromptedTransformer) -> None:
    """Raise a UsageError unless each token of ``model`` attends to the whole image."""
    require_prompts(model)
    if isinstance(model, PromptedSwinTransformer):
        raise UsageError(
            "Swin attends within windows, which are shifted and merged from block to block: there "
            "is no map of a prompt over the image and no rollout of one product"
        )


def reads_class_token(model: PromptedTransformer) -> bool:
    """Say whether the head of ``model`` reads the first token, not the mean over patches."""
    pooled: bool = getattr(model, "global_pool", "avg") == "token"
    return pooled and getattr(model, "attn_pool", None) is None


def _read_rows(model: PromptedTransformer, tokens: int) -> slice:
    """Return which of ``tokens`` the head reads, by attention pooling all of them."""
    if reads_class_token(model):
        return slice(0, 1)
    if getattr(model, "attn_pool", None) is not None:
        return slice(0, tokens)
    return slice(model.num_prefix_tokens, tokens)


def _grid(model: PromptedTransformer) -> tuple[int, int]:
    height, width = model.patch_embed.grid_size
    return int(height), int(width)

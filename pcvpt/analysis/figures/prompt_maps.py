"""Figures of prompts: scores, kept prompts, similarity, numbers by block."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pcvpt.analysis.figures.style import COLOURS, MASKED, QUIET


def score_figure(scores: Tensor) -> Figure:
    """Return a map of ``scores`` ``(l, p)`` on a logarithmic colour scale."""
    figure, axes = _frame(scores, "Importance of each prompt")
    positive = scores.float().where(scores > 0, float("nan"))
    image = axes.imshow(positive.log10().numpy(), aspect="auto", cmap="viridis")
    figure.colorbar(image, ax=axes, label="log10 of the score")
    return figure


def kept_figure(keep: Tensor) -> Figure:
    """Return a map of the mask ``keep`` ``(l, p)``, with the number kept beside each layer."""
    figure, axes = _frame(keep, f"{int(keep.sum())} of {keep.numel()} prompts kept")
    colours = ListedColormap([MASKED, COLOURS[0]])
    axes.imshow(keep.numpy(), aspect="auto", cmap=colours, vmin=0, vmax=1, interpolation="none")
    for layer, count in enumerate(keep.sum(1).tolist()):
        axes.text(keep.shape[1] - 0.3, layer, f"{count}", va="center", fontsize=8)
    return figure


def assignment_figure(assignment: Tensor, kept: Sequence[int]) -> Figure:
    """Return a map of which prompts became one: those of one colour in a row.

    Args:
        assignment: Number of the merged prompt of each ``(l, h, p)``, -1 for dropped ones.
        kept: Number of merged prompts of each layer.
    """
    layers, heads, prompts = assignment.shape
    rows = assignment.flatten(0, 1)
    size = (3 + min(9.0, prompts / 8), 1.8 + layers * min(1.0, 0.25 * heads))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    which = "head of a block" if heads > 1 else "block"
    axes.set(
        title=f"{layers * prompts} prompts merged to {sum(kept)}. In each row, a {which},\n"
        "prompts of one colour became one; grey ones were dropped",
        xlabel="prompt",
        ylabel="block",
    )
    colours = colormaps["tab20"]
    shown = np.ma.masked_less(rows.numpy(), 0)
    axes.set_facecolor(MASKED)
    axes.imshow(shown % 20, aspect="auto", cmap=colours, vmin=0, vmax=19, interpolation="none")
    for layer in range(1, layers):
        axes.axhline(layer * heads - 0.5, color="white", linewidth=2)
    centres = [(layer + 0.5) * heads - 0.5 for layer in range(layers)]
    axes.set_yticks(centres, [str(layer) for layer in range(layers)])
    for layer, count in enumerate(kept):
        axes.text(prompts - 0.3, centres[layer], f"{count}", va="center", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False)
    return figure


def similarity_figure(cosines: Tensor, layers: Tensor) -> Figure:
    """Return a map of :func:`~pcvpt.analysis.prompt_similarity.prompt_similarity`.

    Args:
        cosines: Cosines ``(n, n)``, in [-1, 1].
        layers: Layers ``(n,)``, ascending.
    """
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    axes = figure.add_subplot()
    title = f"Cosine of {len(layers)} kept prompts,\nsimilar ones of a block side by side"
    axes.set(title=title, xlabel="block", ylabel="block")
    axes.set_facecolor(MASKED)
    image = axes.imshow(
        cosines.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none", aspect="equal"
    )
    present, counts = layers.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    for end in ends[:-1].tolist():
        for line in (axes.axhline, axes.axvline):
            line(end - 0.5, color="white", linewidth=0.6)
    centres = (ends - counts / 2 - 0.5).tolist()
    shown = slice(None, None, 1 + len(centres) // 16)
    names = [str(layer) for layer in present.tolist()]
    axes.set_xticks(centres[shown], names[shown])
    axes.set_yticks(centres[shown], names[shown])
    axes.grid(False)
    figure.colorbar(image, ax=axes)
    return figure


def counts_figure(kept: Mapping[str, Sequence[int]], prompts: int) -> Figure:
    """Return bars of the number of kept prompts of each block, for one budget or several.

    Args:
        kept: Numbers of each block, by the name of the budget.
        prompts: Number of prompts of each block before condensation.
    """
    blocks = len(next(iter(kept.values())))
    figure = Figure(figsize=(3 + min(9.0, blocks * len(kept) / 6), 3), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(kept)
    for number, (name, counts) in enumerate(kept.items()):
        left = np.arange(blocks) - 0.4 + (number + 0.5) * width
        bars = axes.bar(left, counts, width, label=name)
        if len(kept) == 1:
            axes.bar_label(bars, fontsize=8)
    axes.axhline(prompts, color=QUIET, linewidth=1, linestyle="--")
    axes.set(title="Prompts kept in each block", xlabel="block", ylabel="prompts")
    axes.set_ylim(0, prompts * 1.1)
    axes.grid(False, axis="x")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    if len(kept) > 1:
        axes.legend(title="budget")
    return figure


def _frame(values: Tensor, title: str) -> tuple[Figure, Axes]:
    layers, prompts = values.shape
    figure = Figure(figsize=(3 + min(9.0, prompts / 8), 1.5 + layers / 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="prompt", ylabel="block", yticks=list(range(layers)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False)
    return figure, axes

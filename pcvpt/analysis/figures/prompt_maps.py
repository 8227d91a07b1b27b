"""Figures of prompts: scores, kept prompts, similarity, numbers by block."""

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from pcvpt.analysis.figures.style import COLOURS, MASKED, panels


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

    Colours are given in the order in which merged prompts first appear in a row, so rows with the
    same groups look the same. No two merged prompts of a row share a colour. ``assignment`` has the
    number of the merged prompt of each ``(l, h or 1, p)``, -1 for dropped ones, and ``kept`` the
    number of those of each layer.
    """
    layers, _, prompts = assignment.shape
    # A block with fewer heads than others has no prompts in the rows of those that it lacks.
    there = (assignment >= 0).any(2)
    there[~there.any(1), 0] = True  # one row where all were dropped
    rows = np.stack([_by_appearance(row) for row in assignment[there].numpy()])
    heads = there.sum(1)
    ends = heads.cumsum(0)
    height = max(0.28 * layers, min(12.0, 0.09 * len(rows)))
    figure, (axes,) = panels(width=3.2 + min(9.6, prompts / 8), height=2.0 + height)
    which = "head of a block" if len(rows) > layers else "block"
    axes.set(
        title=f"{layers * prompts:,} prompts merged to {sum(kept):,}; one row for each {which}",
        xlabel="prompt before the merge",
        ylabel="block",
    )
    palette = _palette(1 + int(rows.max()))
    axes.set_facecolor(MASKED)
    shown, last = np.ma.masked_less(rows, 0), max(len(palette) - 0.5, 0.5)
    axes.imshow(
        shown, aspect="auto", cmap=ListedColormap(palette), vmin=-0.5, vmax=last,
        interpolation="none",
    )  # fmt: skip
    for end in ends[:-1].tolist():
        axes.axhline(end - 0.5, color="white", linewidth=2)
    centres = (ends - heads / 2 - 0.5).tolist()
    axes.set_yticks(centres, [str(layer) for layer in range(layers)])
    right = axes.secondary_yaxis("right")
    right.set_yticks(centres, [str(count) for count in kept])
    right.set_ylabel("prompts left")
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    axes.locator_params("x", integer=True)
    axes.grid(False)
    one = Patch(facecolor=palette[0], label="one colour in one row: became one prompt")
    handles = [one, Patch(facecolor=MASKED, label="dropped")]
    figure.legend(handles=handles, loc="outside lower left", ncols=1 if prompts < 40 else 2)
    return figure


def similarity_figure(cosines: Tensor, layers: Tensor, total: int | None = None) -> Figure:
    """Return a map of :func:`~pcvpt.analysis.prompt_similarity.prompt_similarity`.

    If these prompts were selected of more, ``total`` is the number of all.
    """
    count = len(layers)
    side = 4.4 + count / 150  # so that a prompt has at least a pixel
    figure, (axes,) = panels(width=side + 1.2, height=side + 0.7)
    these = f"{count:,} prompts" if total in (None, count) else f"{count:,} of {total:,} prompts"
    axes.set(
        title=f"Similarity of {these}. In each block, similar\n"
        "ones stand side by side: a red square is a group of near-copies",
        xlabel="block",
        ylabel="block",
    )
    axes.set_facecolor(MASKED)
    image = axes.imshow(
        cosines.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none", aspect="equal"
    )
    present, counts = layers.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    for end in ends[:-1].tolist():
        for line in (axes.axhline, axes.axvline):
            line(end - 0.5, color="#555555", linewidth=0.6)
    centres = (ends - counts / 2 - 0.5).tolist()
    shown = slice(None, None, 1 + len(centres) // 16)
    names = [str(layer) for layer in present.tolist()]
    axes.set_xticks(centres[shown], names[shown])
    axes.set_yticks(centres[shown], names[shown])
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.8)
    return figure


def _frame(values: Tensor, title: str) -> tuple[Figure, Axes]:
    layers, prompts = values.shape
    figure, (axes,) = panels(width=3 + min(9.0, prompts / 8), height=1.5 + layers / 4)
    axes.set(title=title, xlabel="prompt", ylabel="block", yticks=list(range(layers)))
    axes.locator_params("x", integer=True)
    axes.grid(False)
    return figure, axes


def _by_appearance(row: np.ndarray) -> np.ndarray:
    """Return ``row`` with its values numbered in the order of their first place; -1 stays."""
    numbers = {-1: -1}
    return np.array([numbers.setdefault(value, len(numbers) - 1) for value in row.tolist()])


def _palette(count: int) -> list[str]:
    """Return at least one and else ``count`` colours, no two of them equal and none of them grey.

    Few are those of the house style. Of many, the hues are as far apart as they can be.
    """
    if count < len(COLOURS):
        return list(COLOURS[: max(count, 1)])
    shades = ((0.85, 0.85), (0.6, 0.95), (0.95, 0.5))
    return [to_hex(hsv_to_rgb((0.58 + 0.618034 * i) % 1, *shades[i % 3])) for i in range(count)]

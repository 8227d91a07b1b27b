"""Figures of the comparison of scores."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pcvpt.analysis.figures.style import COLOURS, QUIET, captioned


def masked_accuracy_figure(
    accuracies: Mapping[tuple[float, str, str], Sequence[float]], untouched: float, title: str
) -> Figure:
    """Draw the accuracy that each score leaves, a panel for each budget, best at the top.

    Accuracies in percent are by fraction kept, scope and method: several have a bar of their sample
    deviation. ``untouched`` has all prompts.
    """
    keeps = list(dict.fromkeys(keep for keep, _, _ in accuracies))
    scopes = list(dict.fromkeys(scope for _, scope, _ in accuracies))
    methods = list(dict.fromkeys(method for _, _, method in accuracies))
    methods.sort(key=lambda one: sum(fmean(accuracies[keep, scopes[0], one]) for keep in keeps))
    places = np.arange(len(methods))
    size = {"width": 3.4, "height": 1.2 + 0.32 * len(methods)}
    with captioned(title, len(keeps), sharey=True, **size) as (figure, axes):
        for one, keep in zip(axes, keeps, strict=True):
            one.axvline(untouched, color=QUIET, linestyle="--", label="all prompts")
            for i, scope in enumerate(scopes):
                found = [accuracies[keep, scope, method] for method in methods]
                shift = 0.22 * (i - (len(scopes) - 1) / 2)
                one.errorbar(
                    [fmean(values) for values in found],
                    places - shift,
                    xerr=[stdev(values) if len(values) > 1 else 0 for values in found],
                    fmt="osD"[i], markersize=4, linewidth=1, capsize=2, color=COLOURS[i],
                    label=f"ranked in each {scope}" if scope != "global" else "ranked over all",
                )  # fmt: skip
            one.set(title=f"{100 * keep:g} % of the prompts kept", xlabel="accuracy (%)")
            one.set_yticks(places, methods)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def correlation_figure(mean: Tensor, names: Sequence[str], title: str) -> Figure:
    """Draw rank correlations ``(m, m)`` as a map with numbers."""
    size = max(4.2, 1.6 + 0.46 * len(names))
    with captioned(title, width=size + 0.8, height=size) as (figure, (axes,)):
        shown = axes.imshow(mean.numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        places = range(len(names))
        axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, names)
        axes.tick_params(length=0)
        for i, row in enumerate(mean.tolist()):
            for j, value in enumerate(row):
                text = "" if math.isnan(value) else f"{value:.2f}".replace("-", "−")
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=7.5)
        figure.colorbar(shown, ax=axes, shrink=0.7, label="Spearman's rank correlation")
    return figure

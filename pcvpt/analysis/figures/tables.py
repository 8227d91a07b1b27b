"""Figure of a table of runs: accuracy by number of prompts, and by cost."""

from collections.abc import Mapping, Sequence
from itertools import product

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcvpt.analysis.figures.style import COLOURS, captioned

Point = tuple[float, float | None, float, float]
"""Prompts, multiply-accumulates of an image or None, accuracy and deviation in percent."""


def table_figure(found: Mapping[str, Mapping[str, Sequence[Point]]], title: str) -> Figure:
    """Draw a row of two panels for each config, with a line for each series in them.

    A series of one point has a dotted line at its height, to compare the others with.
    """
    columns, rows = 2, len(found)
    with captioned(title, columns, rows, width=5.2, height=4.0) as (figure, axes):
        for number, (config, series) in enumerate(found.items()):
            by_prompts, by_cost = axes[columns * number : columns * (number + 1)]
            styles = product(("o-", "s--", "^:"), COLOURS)
            for (name, points), style in zip(series.items(), styles, strict=False):
                _line(by_prompts, name, style, [(p, a, d) for p, _, a, d in points])
                known = [(m / 1e6, a, d) for _, m, a, d in points if m is not None]
                _line(by_cost, name, style, known)
            by_prompts.set(title=config, xlabel="prompts", ylabel="test accuracy (%)")
            by_cost.set(xlabel="multiply-accumulates per image (M)")
            by_prompts.legend(loc="upper left", bbox_to_anchor=(0, -0.13))
    return figure


def _line(
    axes: Axes, name: str, style: tuple[str, str], points: Sequence[tuple[float, float, float]]
) -> None:
    form, colour = style
    x, accuracy, deviation = ([point[i] for point in sorted(points)] for i in range(3))
    if len(x) == 1:
        axes.axhline(accuracy[0], color=colour, linestyle=":", linewidth=1)
    axes.errorbar(x, accuracy, deviation, fmt=form, color=colour, label=name, capsize=2)

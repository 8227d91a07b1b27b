"""Figures of the accuracy of runs: over their epochs, by number of prompts, and by cost."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcvpt.analysis.figures.style import COLOURS, QUIET, captioned

Point = tuple[float, float | None, float, float]
"""Prompts, multiply-accumulates of an image or None, accuracy and deviation in percent."""


def epochs_figure(runs: Mapping[str, Sequence[Mapping[str, str]]]) -> Figure:
    """Draw accuracy over epochs, a panel for each of ``runs``, given the rows of its metrics.csv.

    A line marks each change of the phase, or of the budget.
    """
    size = {"width": 6.2, "height": 3.2, "sharey": True}
    with captioned("Accuracy over the epochs", len(runs), **size) as (figure, panels):
        for axes, (name, rows) in zip(panels, runs.items(), strict=True):
            for split, colour in (("train", COLOURS[4]), ("val", COLOURS[0])):
                found = [(int(row["epoch"]) + 1, row.get(f"{split}/accuracy")) for row in rows]
                points = [(epoch, 100 * float(value)) for epoch, value in found if value]
                if points:
                    axes.plot(*zip(*points, strict=True), "o-", color=colour, label=split)
            label: str | None = "prompts condensed"
            for before, row in pairwise(rows):
                if (before["phase"], before["budget"]) != (row["phase"], row["budget"]):
                    axes.axvline(int(row["epoch"]) + 0.5, color=QUIET, linestyle="--", label=label)
                    label = None
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3)
            axes.set(title=name, xlabel="epoch")
            axes.locator_params("x", integer=True)
        panels[0].set_ylabel("accuracy (%)")
    return figure


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

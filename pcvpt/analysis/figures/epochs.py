"""Figure of the accuracy of a run over both of its phases."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.figure import Figure

from pcvpt.analysis.figures.style import COLOURS, QUIET, captioned


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

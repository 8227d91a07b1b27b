"""Figure of accuracy by number of prompts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcvpt.analysis.curve import DROP, Line, smallest_that_holds
from pcvpt.analysis.figures.style import COLOURS, QUIET, captioned

_STYLES: dict[str, tuple[str, str, str]] = {
    "fine-tuned": (COLOURS[0], "-", "o"),
    "masked only": (COLOURS[1], "-", "s"),
    "from scratch": (COLOURS[2], "-", "^"),
    "random, fine-tuned": (COLOURS[5], "--", "o"),
    "random, masked only": (COLOURS[4], "--", "s"),
}


class Group(NamedTuple):
    """Runs that differ in their seeds alone; ``full`` is their mean accuracy with all prompts."""

    name: str
    full: float
    lines: Mapping[str, Line]
    runs: int


def curve_figure(groups: Sequence[Group], title: str) -> Figure:
    """Draw one panel for each of ``groups``: a line for each series, with a band over runs."""
    with captioned(title, len(groups), width=5.2, height=4.8, sharey=True) as (figure, axes):
        for one, group in zip(axes, groups, strict=True):
            _panel(one, group)
        axes[0].set_ylabel("accuracy (%)")
    return figure


def _panel(axes: Axes, group: Group) -> None:
    axes.axhline(group.full, color=QUIET, label=f"all prompts: {group.full:.1f} %")
    below = f"{DROP:g} point less"
    axes.axhline(group.full - DROP, color=QUIET, linestyle=":", label=below)
    for series, (colour, style, marker) in _STYLES.items():
        line = group.lines.get(series)
        if not line:
            continue
        keep = 100 * np.array(list(line))
        mean, deviation, _ = np.nan_to_num(np.array(list(line.values()))).T
        holds = smallest_that_holds(line, group.full)
        where = "nowhere" if holds is None else f"from {100 * holds:g} %"
        label = f"{series}; within {DROP:g} point {where}"
        axes.plot(keep, mean, style, marker=marker, color=colour, label=label)
        low, high = mean - deviation, mean + deviation
        axes.fill_between(keep, low, high, color=colour, alpha=0.15, linewidth=0)
        if holds is not None:
            at = line[holds].mean
            axes.plot(100 * holds, at, "o", color=colour, fillstyle="none", markersize=11)
    axes.set(title=group.name, xlabel="prompts kept (% of all)")
    axes.set_xlim(0, 103)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.13))

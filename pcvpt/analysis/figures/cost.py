"""Figure of the cost of prompts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcvpt.analysis.figures.style import COLOURS, QUIET, captioned
from pcvpt.analysis.measured_cost import MeasuredCost

_NAMES = {
    "tokens": "in the sequence (tokens)",
    "prefix": "as keys and values (prefix)",
    "condensed": "condensed, in prefix",
    "backbone": "the backbone alone",
}
_COLOURS = {"tokens": COLOURS[1], "prefix": COLOURS[0], "condensed": COLOURS[2]}


def cost_figure(measured: Sequence[MeasuredCost], prompts: str, title: str) -> Figure:
    """Draw multiply-accumulates, latency and memory of an image by number of ``prompts``.

    This is the label of the horizontal axis, such as "prompts of each block".
    """
    most = max(one.multiply_accumulates for one in measured)
    unit, name = (1e9, "G") if most >= 1e9 else (1e6, "M")
    with captioned(title, 3, width=3.9, height=4.2) as (figure, (macs, latency, memory)):
        _lines(macs, measured, lambda one: [one.multiply_accumulates / unit], _NAMES)
        _lines(memory, measured, lambda one: [one.memory_bytes_per_image / 2**20], _NAMES)
        for size, style in zip(measured[0].seconds, cycle(("-", "--", ":", "-."))):
            labels = {form: f"{form}, batch of {size}" for form in _NAMES}
            _lines(latency, measured, partial(_milliseconds, size), labels, style)
        macs.set(title="Multiply-accumulates", ylabel=f"{name} per image")
        latency.set(title="Latency", ylabel="ms per image (median, quartiles)")
        memory.set(title="Memory held for backward", ylabel="MiB per further image of a batch")
        for axes in (macs, latency, memory):
            axes.set(xlabel=prompts)
            axes.set_ylim(bottom=0)
            axes.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.16), ncols=1 + (axes is latency))
    return figure


def _milliseconds(size: int, one: MeasuredCost) -> list[float]:
    """Return the median and the quartiles of one image."""
    return [1e3 * seconds / size for seconds in one.seconds[size]]


def _lines(
    axes: Axes,
    measured: Sequence[MeasuredCost],
    values: Callable[[MeasuredCost], list[float]],
    labels: Mapping[str, str],
    style: str = "-",
) -> None:
    """Draw a line for each form: the first of the ``values``, in a band between the others."""
    for form, colour in _COLOURS.items():
        line = [one for one in measured if one.form == form]
        if not line:
            continue
        x, (y, *band) = (
            [one.prompts_per_layer for one in line],
            zip(*map(values, line), strict=True),
        )
        several = len(line) > 1
        marker, size = ("*", 11.0) if form == "condensed" else ("o", 4.0)
        axes.plot(
            x, y, style if several else "",
            marker=marker, markersize=size, color=colour, label=labels[form],
        )  # fmt: skip
        if band and several:
            axes.fill_between(x, band[0], band[1], color=colour, alpha=0.15, linewidth=0)
        elif band:
            axes.vlines(x, band[0], band[1], color=colour, linewidth=1)
    for one in measured:
        if one.form == "tokens" and not one.prompts:
            bare, label = values(one)[0], labels["backbone"]
            axes.axhline(bare, color=QUIET, linewidth=1, linestyle=style, label=label)

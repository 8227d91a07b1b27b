"""Figure of the cost of prompts."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcvpt.analysis.figures.style import COLOURS, QUIET, caption, house_style, panels
from pcvpt.analysis.measured_cost import MeasuredCost

_NAMES = {
    "tokens": "in the sequence (tokens)",
    "prefix": "as keys and values (prefix)",
    "condensed": "condensed, in prefix",
    "backbone": "the backbone alone",
}
_COLOURS = {"tokens": COLOURS[1], "prefix": COLOURS[0], "condensed": COLOURS[2]}


def cost_figure(measured: Sequence[MeasuredCost], prompts: str, title: str) -> Figure:
    """Draw multiply-accumulates, latency and memory of an image by number of prompts.

    Args:
        measured: Costs of :func:`pcvpt.analysis.measured_cost.measure_costs`.
        prompts: Label of the horizontal axis.
        title: Title of the figure.
    """
    sizes = list(measured[0].latency)
    unit, name = (1e9, "G") if max(one.macs for one in measured) >= 1e9 else (1e6, "M")
    with house_style():
        figure, (macs, latency, memory) = panels(3, width=3.9, height=4.2)
        _lines(macs, measured, lambda one: one.macs / unit, "-", _label)
        _lines(memory, measured, lambda one: one.memory / 2**20, "-", _label)
        for size, style in zip(sizes, ("-", "--", ":", "-.") * len(sizes), strict=False):
            _latency(latency, measured, size, style)
        macs.set(title="Multiply-accumulates", ylabel=f"{name} per image")
        latency.set(title="Latency", ylabel="ms per image (median, quartiles)")
        memory.set(title="Memory held for backward", ylabel="MiB per further image of a batch")
        for axes in (macs, latency, memory):
            axes.set(xlabel=prompts)
            axes.set_ylim(bottom=0)
            axes.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.16), ncols=1 + (axes is latency))
        caption(figure, title)
    return figure


def _label(form: str) -> str:
    return _NAMES.get(form, form)


def _lines(
    axes: Axes,
    measured: Sequence[MeasuredCost],
    value: Callable[[MeasuredCost], float],
    style: str,
    label: Callable[[str], str],
) -> None:
    for form in dict.fromkeys(one.form for one in measured):
        line = [one for one in measured if one.form == form]
        x, y = [one.prompts for one in line], [value(one) for one in line]
        marker, size = ("*", 11.0) if form == "condensed" else ("o", 4.0)
        line_style = style if len(line) > 1 else ""
        axes.plot(
            x,
            y,
            line_style,
            marker=marker,
            markersize=size,
            color=_COLOURS[form],
            label=label(form),
        )
    bare = next((one for one in measured if one.form == "tokens" and not one.total), None)
    if bare is not None:
        axes.axhline(
            value(bare), color=QUIET, linewidth=1, linestyle=style, label=label("backbone")
        )


def _latency(axes: Axes, measured: Sequence[MeasuredCost], size: int, style: str) -> None:
    def of_image(one: MeasuredCost) -> float:
        return 1e3 * one.latency[size].median / size

    _lines(axes, measured, of_image, style, lambda form: f"{form}, batch of {size}")
    for form in dict.fromkeys(one.form for one in measured):
        line = [one for one in measured if one.form == form]
        low, high = ([1e3 * one.latency[size][edge] / size for one in line] for edge in (1, 2))
        x = [one.prompts for one in line]
        if len(line) > 1:
            axes.fill_between(x, low, high, color=_COLOURS[form], alpha=0.15, linewidth=0)
        else:
            axes.vlines(x, low, high, color=_COLOURS[form], linewidth=1)

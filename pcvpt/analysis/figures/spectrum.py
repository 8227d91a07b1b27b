"""Figure of the spectra of attention."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from pcvpt.analysis.attention_spectrum import Values, logarithmic_fit
from pcvpt.analysis.figures.style import COLOURS, QUIET, captioned

_NAMES: dict[Values, str] = {"eigen": "eigenvalues", "singular": "singular values"}


class Spectrum(NamedTuple):
    """The spectrum of one model with one number of prompts, over all blocks and heads."""

    label: str  # in the legend
    length: float  # tokens and prompts of one sequence, geometric mean over blocks
    mean: Tensor  # share of the largest 1, 2, ... values (k,)
    deviation: Tensor  # of the shares (k,)
    rank: float  # mean of those that the share needs
    rank_deviation: float


def spectrum_figure(
    spectra: Sequence[Spectrum], share: float, values: Values, title: str
) -> Figure:
    """Draw the cumulative spectra, and the rank that ``share`` needs by length."""
    with captioned(title, 2, width=4.8, height=3.6) as (figure, (left, right)):
        _curves(left, spectra, share, values)
        _ranks(right, spectra, share, values)
    return figure


def _curves(axes: Axes, spectra: Sequence[Spectrum], share: float, values: Values) -> None:
    for i, one in enumerate(spectra):
        mean, deviation = (np.append(0, part.numpy()) for part in (one.mean, one.deviation))
        counts = np.arange(len(mean))
        colour, style = COLOURS[i % 7], ("-", "--", ":")[i // 7 % 3]
        axes.plot(counts, 100 * mean, style, color=colour, label=one.label)
        low, high = (100 * (mean - deviation)).clip(0), (100 * (mean + deviation)).clip(max=100)
        axes.fill_between(counts, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(100 * share, color=QUIET, linewidth=1, linestyle="--")
    name = _NAMES[values] + " by absolute value" * (values == "eigen")
    axes.set(
        title="Cumulative spectrum of attention",
        xlabel=f"largest {name}, number",
        ylabel="share of their sum (%)",
        ylim=(0, 102),
    )
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right", title="prompts")


def _ranks(axes: Axes, spectra: Sequence[Spectrum], share: float, values: Values) -> None:
    lengths, ranks = [one.length for one in spectra], [one.rank for one in spectra]
    fit = logarithmic_fit(lengths, ranks)
    if fit is not None:
        ends = np.array([min(lengths), max(lengths)])
        label = f"least squares: {fit[0]:.1f} {fit[1]:+.1f} ln n".replace("-", "−")
        axes.plot(ends, fit[0] + fit[1] * np.log(ends), "--", color=QUIET, label=label)
    for i, one in enumerate(spectra):
        axes.errorbar(
            [one.length], [one.rank], [one.rank_deviation],
            fmt="o", color=COLOURS[i % 7], capsize=3, linewidth=1,
        )  # fmt: skip
    axes.set(
        title=f"Rank needed for {100 * share:g} %",
        xlabel="tokens and prompts n (logarithmic scale)",
        ylabel=f"{_NAMES[values]} needed, number",
        xscale="log",
    )
    axes.set_xlim(min(lengths) / 1.15, max(lengths) * 1.15)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    if fit is not None:
        axes.legend(loc="lower right")

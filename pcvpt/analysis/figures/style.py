"""The house style of all figures, and how they are saved."""

import base64
import io
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Figure  # for those who only pass figures on

# Okabe and Ito's colours, which people who see colours differently can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
QUIET = "#8c8c8c"  # of what is drawn for comparison
MASKED = "#e6e6e6"  # of masked prompts
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": 110,
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "savefig.dpi": 160,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "pcvpt",  # the same figure is the same file
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style within this context; the user's own settings do not change."""
    with mpl.rc_context(cast(Any, _STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in other scripts
        yield


def panels(
    columns: int = 1, rows: int = 1, width: float = 4.6, height: float = 3.2, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row. Call it and draw within :func:`house_style`.

    Width and height are those of each of the axes, in inches. ``shared`` are options of
    matplotlib's ``subplots``, such as ``sharey=True``.
    """
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    return figure, list(axes.flat)


@contextmanager
def captioned(title: str, *shape: int, **options: Any) -> Iterator[tuple[Figure, list[Axes]]]:
    """Draw in the house style, within this context, on :func:`panels` below ``title``.

    It says what was measured, and is broken into lines that fit. The rest is for :func:`panels`.
    """
    with house_style():
        figure, axes = panels(*shape, **options)
        characters = int(figure.get_figwidth() / 0.083)  # of 10 points
        figure.suptitle(textwrap.fill(title, characters), x=0.01, ha="left", fontsize=10)
        yield figure, axes


def pixels_of(draw: Callable[[], Figure]) -> np.ndarray:
    """Return what ``draw`` draws in the house style, as pixels ``(h, w, 3)``, uint8.

    pyplot is not imported for it.
    """
    with house_style():
        canvas: Any = FigureCanvasAgg(draw())
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def address_of(draw: Callable[[], Figure], form: str = "svg") -> str:
    """Return what ``draw`` draws in the house style as the address of a picture that holds it.

    ``form`` is "svg", or "jpeg" for photographs.
    """
    file = io.BytesIO()
    with house_style():
        draw().savefig(file, format=form, dpi=100)
    kind = {"svg": "svg+xml"}.get(form, form)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``figure`` as ``stem.png`` and ``stem.svg``; return the two paths.

    The files have no date, so that the same figure is the same file.
    """
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    with house_style():
        figure.savefig(paths[0])
        figure.savefig(paths[1], metadata={"Date": None})
    return paths

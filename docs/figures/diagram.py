"""The drawing of a block with prompts as tokens, and as keys and values."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from pcvpt.analysis.figures.style import COLOURS, QUIET, panels

BLUE, RED = COLOURS[:2]
_TOKENS, _PROMPTS = 4, 2


def forms(_: dict[str, Any]) -> Figure:
    """Draw the computations of a block in the two forms."""
    figure, sides = panels(columns=2, width=3.9, height=3.6)
    for axes, title, prompts in zip(
        sides, ("Prompts as tokens", "Prompts as keys and values"), (True, False), strict=True
    ):
        axes.set(title=title, xlim=(-0.6, 7.1), ylim=(-0.7, 6.6))
        axes.axis("off")
        _block(axes, rows_of_prompts=prompts)
    return figure


def _block(axes: Axes, rows_of_prompts: bool) -> None:
    rows = ["input", "query", "key", "value", "projection", "MLP"]
    for height, name in enumerate(rows):
        axes.text(-0.5, height, name, va="center")
        for place in range(_TOKENS):
            _cell(axes, 1.5 + 0.8 * place, height, BLUE)
        for place in range(_PROMPTS):
            x = 1.9 + 0.8 * (_TOKENS + place)
            needed = name in ("input", "key", "value")
            if rows_of_prompts or needed:
                _cell(axes, x, height, RED, wasted=not needed)
    axes.text(1.2 + 0.4 * _TOKENS, 6.1, "image", color=BLUE, ha="center")
    axes.text(1.9 + 0.8 * _TOKENS + 0.4, 6.1, "prompts", color=RED, ha="center")
    if rows_of_prompts:
        axes.text(6.9, -0.65, "hatched: computed, then thrown away", ha="right", color="#555555")
    else:
        axes.text(6.9, -0.65, "filled red: once per batch", ha="right", color="#555555")


def _cell(axes: Axes, x: float, y: float, colour: str, wasted: bool = False) -> None:
    look = {"facecolor": "white", "hatch": "////"} if wasted else {"facecolor": colour}
    edge = colour if wasted else QUIET
    axes.add_patch(
        FancyBboxPatch(
            (x - 0.25, y - 0.25), 0.5, 0.5, boxstyle="round,pad=0.03", edgecolor=edge, **look
        )
    )

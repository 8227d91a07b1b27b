"""Figure of accuracy by the block whose prompts are removed or kept."""

import math

from matplotlib.figure import Figure

from pcvpt.analysis.figures.style import COLOURS, QUIET, captioned
from pcvpt.analysis.layer_removal import Removals


def layers_figure(removals: Removals, title: str) -> Figure:
    """Draw accuracy without each block's prompts, and with them alone, beside all and none.

    The band is one standard error of the accuracy of n images, √(a (1 - a) / n).
    """
    blocks = range(len(removals.kept))
    share = removals.untouched / 100
    error = 100 * math.sqrt(share * (1 - share) / removals.images)
    with captioned(title, 2, width=4.6, height=3.8) as (figure, (left, right)):
        for axes, fate, values, colour, label in (
            (left, "removed", removals.without, COLOURS[1], "without this block's prompts"),
            (right, "kept", removals.only, COLOURS[0], "with this block's prompts alone"),
        ):
            low, high = removals.untouched - error, removals.untouched + error
            axes.axhspan(low, high, color=QUIET, alpha=0.2, linewidth=0)
            axes.axhline(removals.untouched, color=QUIET, label="all prompts (± standard error)")
            axes.plot(blocks, values, marker="o", color=colour, label=label)
            axes.set_title(f"Prompts of one block {fate}")
            axes.set(xlabel="block", ylabel="accuracy (%)")
            axes.locator_params("x", integer=True)
        right.axhline(removals.none, color=COLOURS[6], linestyle="--", label="no prompts")
        for axes in (left, right):
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16))
    return figure

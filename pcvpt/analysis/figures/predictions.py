"""Figures of predictions: images with their predictions, and a confusion matrix.

Axes: b images, k classes.
"""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from pcvpt.analysis.figures.style import COLOURS, panels

_LEGIBLE = 20  # classes whose names and numbers have room
_RIGHT, _WRONG = COLOURS[2], COLOURS[1]


def sample_figure(
    pixels: Tensor, labels: Tensor, guesses: Tensor, class_names: Sequence[str], columns: int = 8
) -> Figure:
    """Return the images with their predictions below, and the class where the prediction is wrong.

    Pixels ``(b, 3, h, w)`` are uint8. At most ``columns`` images stand side by side.
    """
    count, _, height, width = pixels.shape
    columns = min(columns, count)
    inches, gap = 1.25, 0.08
    tall = inches * height / width
    step = tall + 0.36  # with the text below an image
    wide, total = columns * (inches + gap) + gap, math.ceil(count / columns) * step
    figure = Figure(figsize=(wide, total + 0.35))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    right = int((labels == guesses).sum())
    axes.text(gap, -0.12, f"{right} of {count} right", weight="bold", fontsize=10)
    rows = zip(pixels.permute(0, 2, 3, 1).numpy(), labels.tolist(), guesses.tolist(), strict=True)
    for number, (image, label, guess) in enumerate(rows):
        left = gap + number % columns * (inches + gap)
        top = number // columns * step
        below = top + tall
        axes.imshow(image, extent=(left, left + inches, below, top), interpolation="nearest")
        colour = _RIGHT if guess == label else _WRONG
        axes.text(left, below + 0.14, _name(class_names, guess), color=colour, fontsize=8)
        if guess != label:
            axes.text(left, below + 0.28, f"is {_name(class_names, label)}", fontsize=7)
    axes.set_xlim(0, wide)
    axes.set_ylim(total, -0.35)
    axes.set_aspect("auto")
    return figure


def confusion_figure(counts: Tensor, class_names: Sequence[str]) -> Figure:
    """Return a confusion matrix: for each class (row), the shares of the predictions.

    Up to 20 classes have their names, and the counts in the cells.
    """
    classes = len(counts)
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    accuracy = 100 * float(counts.trace()) / max(1, int(counts.sum()))
    legible = classes <= _LEGIBLE
    side = 3 + 0.38 * classes if legible else 7.0
    figure, (axes,) = panels(width=side + 0.6, height=side)
    axes.grid(False)
    axes.set(xlabel="predicted", ylabel="class")
    axes.set_title(f"{accuracy:.1f} % of {int(counts.sum()):,} images right")
    # A square root, so that rare confusions of many classes can be seen.
    image = axes.imshow(shares.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="none")
    if legible:
        names = [_name(class_names, label) for label in range(classes)]
        places = list(range(classes))
        axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, names)
        for row, column in counts.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.4 else "black"
            number = str(int(counts[row, column]))
            axes.text(column, row, number, color=colour, ha="center", va="center", fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class")
    bar.set_ticks([math.sqrt(share) for share in (0, 0.05, 0.2, 0.5, 1)])
    bar.set_ticklabels(["0", "5 %", "20 %", "50 %", "100 %"])
    return figure


def _name(class_names: Sequence[str], label: int, most: int = 18) -> str:
    name = str(class_names[label]) if 0 <= label < len(class_names) else str(label)
    short = name if len(name) <= most else name[: most - 1] + "…"
    return short.replace("$", r"\$")  # matplotlib would read formulas

"""Maps of the prompts, layer by prompt."""

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor


def score_figure(scores: Tensor) -> Figure:
    """Return a map of ``scores`` ``(l, p)`` on a logarithmic colour scale."""
    figure, axes = _frame(scores, "Importance of each prompt")
    positive = scores.float().where(scores > 0, float("nan"))
    image = axes.imshow(positive.log10().numpy(), aspect="auto", cmap="viridis")
    figure.colorbar(image, ax=axes, label="log10 of the score")
    return figure


def kept_figure(keep: Tensor) -> Figure:
    """Return a map of the mask ``keep`` ``(l, p)``, with the number kept beside each layer."""
    figure, axes = _frame(keep, f"{int(keep.sum())} of {keep.numel()} prompts kept")
    colours = ListedColormap(["#e6e6e6", "#1f5fa8"])
    axes.imshow(keep.numpy(), aspect="auto", cmap=colours, vmin=0, vmax=1, interpolation="none")
    for layer, count in enumerate(keep.sum(1).tolist()):
        axes.text(keep.shape[1] - 0.3, layer, f"{count}", va="center", fontsize=8)
    return figure


def _frame(values: Tensor, title: str) -> tuple[Figure, Axes]:
    layers, prompts = values.shape
    figure = Figure(figsize=(3 + min(9.0, prompts / 8), 1.5 + layers / 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="prompt", ylabel="block", yticks=list(range(layers)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes

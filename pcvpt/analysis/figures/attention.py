"""Figures of attention: received by prompts, maps of prompts, rollouts over images.

Axes: b images, m chosen prompts, p prompts of a layer; gh, gw rows and columns of patches.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pcvpt.analysis.attention import PromptMaps, Rollout
from pcvpt.analysis.figures.style import COLOURS, MASKED, captioned

_SIDE = 1.5  # inches of one image
_COLOURS = "inferno"


def received_figure(received: Tensor, reader: str, title: str) -> Figure:
    """Draw the attention that each prompt receives, in percent, and its sum in each block.

    Args:
        received: Attention ``(blocks, p)`` of
            :func:`~pcvpt.analysis.forward_pass.attention_to_prompts`; NaN for masked prompts.
        reader: Tokens that pay the attention, such as "class token".
        title: What was measured.
    """
    blocks, prompts = received.shape
    width, height = 2.3 + min(3.5, prompts / 24), 2.0 + min(6.0, blocks / 5)
    shared = {"sharey": True, "width_ratios": [2.6, 1]}
    with captioned(title, 2, width=width, height=height, **shared) as (figure, (left, right)):
        left.grid(False)
        left.set_facecolor(MASKED)
        image = left.imshow(100 * received.numpy(), aspect="auto", cmap="viridis", vmin=0)
        left.set(title="Each prompt (grey: masked)", xlabel="prompt", ylabel="block")
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(image, ax=left, label=f"attention of the {reader} (%)")
        right.barh(range(blocks), 100 * received.nansum(1).numpy(), color=COLOURS[0])
        right.set(title="All of a block", xlabel="attention (%)")
        right.set_xlim(left=0)
    return figure


def maps_figure(
    pixels: Tensor,
    names: Sequence[str],
    maps: PromptMaps,
    chosen: Sequence[tuple[int, int]],
    title: str,
) -> Figure:
    """Draw, over each image, attention of prompts to patches (left) and of patches to prompts.

    Prompts that are keys and values attend to nothing, and have the latter only. Pixels
    ``(b, 3, height, width)`` are in [0, 1]; ``chosen`` has the (layer, prompt) of each map.
    """
    kinds = [("receives from", maps.to_prompts)]
    if maps.from_prompts is not None:
        kinds.insert(0, ("attends to", maps.from_prompts))
    shape = 1 + len(kinds) * len(chosen), len(pixels)
    with captioned(title, *shape, width=_SIDE, height=_SIDE + 0.25) as (figure, axes):
        for i, picture in enumerate(pixels):
            shown, *row = axes[i * shape[0] : (i + 1) * shape[0]]
            _show(shown, picture, _short(names[i]))
            drawings = [
                (f"{layer}.{prompt} {kind}" * (i == 0), of_kind[i, j])
                for kind, of_kind in kinds
                for j, (layer, prompt) in enumerate(chosen)
            ]
            for place, (text, values) in zip(row, drawings, strict=True):
                drawn = _overlay(place, picture, values, text, float(values.max()))
        bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.35, aspect=40)
        bar.set_ticks([0, float(values.max())], labels=["0", "the map's largest"])
        bar.set_label("attention, mean over heads")
    return figure


def rollout_figure(
    pixels: Tensor, names: Sequence[str], with_prompts: Rollout, without: Rollout, title: str
) -> Figure:
    """Draw each image beside its rollouts with and without prompts.

    The maps are shares among the patches, on one scale for both maps of an image. The share of the
    prompts stands above them. Pixels ``(b, 3, height, width)`` are in [0, 1].
    """
    columns = min(2, len(pixels))
    shape = 3 * columns, -(-len(pixels) // columns)
    with captioned(title, *shape, width=_SIDE + 0.2, height=_SIDE + 0.5) as (figure, axes):
        for axis in axes[3 * len(pixels) :]:
            axis.axis("off")
        for i, picture in enumerate(pixels):
            shown, left, right = axes[3 * i : 3 * i + 3]
            pair = [whole.patches[i] / whole.patches[i].sum() for whole in (with_prompts, without)]
            least, most = (float(end) for end in torch.stack(pair).aminmax())
            _show(shown, picture, _short(names[i]))
            share = 100 * float(with_prompts.prompts[i].sum())
            text = f"with prompts,\nwhich take {share:.0f} %"
            _overlay(left, picture, pair[0], text, most, least)
            drawn = _overlay(right, picture, pair[1], "without prompts", most, least)
        bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.5, aspect=40)
        bar.set_ticks([least, most], labels=["smallest of both maps", "largest"])
        bar.set_label("share of a patch among all patches")
    return figure


def _show(axes: Axes, picture: Tensor, text: str) -> None:
    axes.imshow(picture.permute(1, 2, 0).numpy())
    _label(axes, text)


def _overlay(
    axes: Axes, picture: Tensor, values: Tensor, text: str, most: float, least: float = 0.0
) -> AxesImage:
    """Draw a map of ``values`` ``(gh, gw)`` over the grey picture."""
    grey = picture.mean(0).numpy()
    axes.imshow(grey, cmap="gray", vmin=-0.6, vmax=1)
    height, width = grey.shape
    drawn = axes.imshow(
        np.asarray(values),
        cmap=_COLOURS,
        vmin=least,
        vmax=most if most > least else least + 1,
        alpha=0.65,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    _label(axes, text)
    return drawn


def _label(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=8, fontweight="normal")
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def _short(name: str) -> str:
    lines = name.splitlines()
    return "\n".join(line if len(line) <= 22 else f"{line[:10]}…{line[-10:]}" for line in lines)

"""Figures of attention: received by prompts, maps of prompts, rollouts over images.

Axes: b images, m chosen prompts, p prompts of a layer; gh, gw rows and columns of patches.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from pcvpt.analysis.attention import PromptMaps, Rollout
from pcvpt.analysis.figures.style import COLOURS, MASKED, captioned

Tile = tuple[str, np.ndarray]  # a text and the picture below it, (h, w, 3)
_SIDE = 1.5  # inches of one image
_COLOURS = "inferno"


def received_figure(received: Tensor, reader: str, title: str) -> Figure:
    """Draw the attention that each prompt receives, in percent, and its sum in each block.

    It is ``(blocks, p)`` of :func:`~pcvpt.analysis.forward_pass.attention_to_prompts`. ``reader``
    names the tokens that pay it, such as "class token".
    """
    blocks, prompts = received.shape
    width, height = 2.3 + min(3.5, prompts / 24), 2.0 + min(6.0, blocks / 5)
    shared = {"sharey": True, "width_ratios": [2.6, 1]}
    with captioned(title, 2, width=width, height=height, **shared) as (figure, (left, right)):
        left.grid(False)
        left.set_facecolor(MASKED)
        image = left.imshow(100 * received.numpy(), aspect="auto", cmap="viridis", vmin=0)
        left.set(title="Each prompt (grey: masked)", xlabel="prompt", ylabel="block")
        left.locator_params(integer=True)
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
    rows = []
    for i, picture in enumerate(pixels):
        overlaid = [
            (f"{layer}.{prompt} {kind}" * (i == 0), _overlay(picture, map_, 0.0, float(map_.max())))
            for kind, maps_ in kinds
            for (layer, prompt), map_ in zip(chosen, maps_[i], strict=True)
        ]
        rows.append([(_short(names[i]), _rgb(picture)), *overlaid])
    return _tiles(title, rows, "attention, mean over heads: from 0 to the largest of a map")


def rollout_figure(
    pixels: Tensor, names: Sequence[str], with_prompts: Rollout, without: Rollout, title: str
) -> Figure:
    """Draw each image beside its rollouts with and without prompts.

    The maps are shares among the patches, on one scale for both maps of an image. The share of the
    prompts stands above them. Pixels ``(b, 3, height, width)`` are in [0, 1].
    """
    rows = []
    for i, picture in enumerate(pixels):
        pair = [whole.patches[i] / whole.patches[i].sum() for whole in (with_prompts, without)]
        least, most = (float(end) for end in torch.stack(pair).aminmax())
        share = 100 * float(with_prompts.prompts[i].sum())
        texts = f"with prompts,\nwhich take {share:.0f} %", "without prompts"
        overlaid = [_overlay(picture, values, least, most) for values in pair]
        rows.append([(_short(names[i]), _rgb(picture)), *zip(texts, overlaid, strict=True)])
    pairs = [list(chain(*rows[i : i + 2])) for i in range(0, len(rows), 2)]  # side by side
    scale = "share of a patch among all: from the smallest of both maps to the largest"
    return _tiles(title, pairs, scale)


def _tiles(title: str, rows: Sequence[Sequence[Tile]], scale: str) -> Figure:
    """Draw rows of pictures of one size below ``title``, and the ``scale`` of the maps over them.

    All pictures are one image: axes of its own for each would take most of the time.
    """
    columns, (height, width, _) = max(map(len, rows)), rows[0][0][1].shape
    gap, lines = width // 20 + 1, width // 4 + 1  # pixels between pictures and above each of them
    shape = len(rows) * (height + lines), columns * (width + gap) - gap, 3
    sheet = np.full(shape, 255, np.uint8)
    inches = _SIDE / width
    size = {"width": inches * sheet.shape[1], "height": inches * sheet.shape[0] + 0.6}
    with captioned(title, **size) as (figure, (axes,)):
        for i, row in enumerate(rows):
            top = i * (height + lines) + lines
            for j, (text, picture) in enumerate(row):
                left = j * (width + gap)
                sheet[top : top + height, left : left + width] = 255 * picture
                axes.text(left, top - 0.03 * width, text, fontsize=8, va="bottom")
        axes.imshow(sheet)
        axes.axis("off")
        inch = 1 / (inches * sheet.shape[0])  # of the height of the sheet
        place = axes.inset_axes((0.0, -0.2 * inch, 0.25, 0.1 * inch))
        figure.colorbar(ScalarMappable(cmap=_COLOURS), place, orientation="horizontal", ticks=[])
        place.text(1.03, 0.5, scale, transform=place.transAxes, va="center", fontsize=8)
    return figure


def _rgb(picture: Tensor) -> np.ndarray:
    return np.asarray(picture.permute(1, 2, 0))


def _overlay(picture: Tensor, values: Tensor, least: float, most: float) -> np.ndarray:
    """Return a map of ``values`` ``(gh, gw)``, between two of them, over the pale grey picture."""
    shape = picture.shape[1:]
    map_ = F.interpolate(values[None, None].float(), shape, mode="nearest")[0, 0]
    shares = (map_ - least) / ((most - least) or 1.0)
    colours = colormaps[_COLOURS](shares.numpy())[..., :3]
    grey = (picture.mean(0).numpy()[..., None] + 0.6) / 1.6
    return np.asarray(0.65 * colours + 0.35 * grey)


def _short(name: str) -> str:
    lines = name.splitlines()
    return "\n".join(line if len(line) <= 22 else f"{line[:10]}…{line[-10:]}" for line in lines)

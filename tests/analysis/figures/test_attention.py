from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from pcvpt.analysis.attention import prompt_maps, rollout
from pcvpt.analysis.figures.attention import maps_figure, received_figure, rollout_figure
from pcvpt.analysis.forward_pass import attention_to_prompts


def test_the_figures_show_what_was_measured(build: Any, images: Any) -> None:
    model = build()
    x, names = images(model), ["one", "two", "an image with a long name.png"]
    pixels = torch.full_like(x, 0.5)
    received = attention_to_prompts(model, x)
    received[1] = float("nan")
    figure = received_figure(received, "class token", "title")
    cells, bars = figure.axes[0].images[0].get_array(), figure.axes[1].patches
    assert cells is not None
    assert cells.shape == (3, 4)
    assert float(cells.max()) == pytest.approx(100 * float(received.nan_to_num().max()))
    widths = [bar.get_width() for bar in bars]  # type: ignore[attr-defined]
    assert widths == pytest.approx((100 * received.nansum(1)).tolist())
    figure.canvas.draw()

    chosen = [(0, 1), (2, 3)]
    maps, grid = prompt_maps(model, x, chosen), model.patch_embed.grid_size
    assert maps.from_prompts is not None
    drawn = tiles(maps_figure(pixels, names, maps, chosen, "title"), pixels, grid)
    assert [text for text, _ in drawn] == [
        *("one", "0.1 attends to", "2.3 attends to", "0.1 receives from", "2.3 receives from"),
        *("two", "", "", "", ""),
        *("an image w…g name.png", "", "", "", ""),
    ]
    for i in range(3):
        for j in range(2):
            for place, values in ((1 + j, maps.from_prompts), (3 + j, maps.to_prompts)):
                shares = values[i, j] / values[i, j].max()
                torch.testing.assert_close(drawn[5 * i + place][1], colours(shares))
    # Keys and values attend to nothing.
    drawn = tiles(
        maps_figure(pixels, names, maps._replace(from_prompts=None), chosen, "title"), pixels, grid
    )
    assert [text for text, _ in drawn[:3]] == ["one", "0.1 receives from", "2.3 receives from"]
    torch.testing.assert_close(
        drawn[5][1], colours(maps.to_prompts[1, 1] / maps.to_prompts[1, 1].max())
    )


def test_rollouts_of_an_image_have_one_scale(build: Any, images: Any) -> None:
    model = build()
    x, names = images(model), ["one", "two", "three"]
    pixels, grid = torch.full_like(x, 0.5), model.patch_embed.grid_size
    with_prompts, without = rollout(model, x), rollout(model, x, prompts=False)
    drawn = tiles(rollout_figure(pixels, names, with_prompts, without, "title"), pixels, grid)
    assert [text for text, _ in drawn][::3] == names
    percent = 100 * float(with_prompts.prompts[1].sum())
    assert drawn[4][0] == f"with prompts,\nwhich take {percent:.0f} %"
    pair = torch.stack(
        [each.patches[1] / each.patches[1].sum() for each in (with_prompts, without)]
    )
    shares = (pair - pair.min()) / (pair.max() - pair.min())
    torch.testing.assert_close(drawn[4][1], colours(shares[0]))
    torch.testing.assert_close(drawn[5][1], colours(shares[1]))


def tiles(figure: Figure, pixels: Tensor, grid: tuple[int, int]) -> list[tuple[str, Tensor]]:
    """Return the text of each picture, and its colours in each patch of a grid."""
    figure.canvas.draw()
    axes = figure.axes[0]
    sheet = torch.as_tensor(np.asarray(axes.images[0].get_array())).int()
    height, width = pixels.shape[2:]
    found = []
    for text in axes.texts:
        left, above = text.get_position()
        top = round(above + 0.03 * width)
        picture = sheet[top : top + height, round(left) : round(left) + width]
        rows, columns = (
            torch.arange(count) * side // count + side // count // 2
            for side, count in zip((height, width), grid, strict=True)
        )
        found.append((text.get_text(), picture[rows][:, columns]))
    return found


def colours(shares: Tensor) -> Tensor:
    """Return the colours of a map over a picture of the grey 0.5."""
    over = colormaps["inferno"](shares.float().numpy())[..., :3]
    return torch.as_tensor(255 * (0.65 * over + 0.35 * 1.1 / 1.6)).int()

from typing import Any

import pytest
import torch

from pcvpt.analysis.attention import prompt_maps, rollout
from pcvpt.analysis.figures.attention import maps_figure, received_figure, rollout_figure
from pcvpt.analysis.forward_pass import attention_to_prompts


def test_the_figures_show_what_was_measured(build: Any, images: Any) -> None:
    model = build()
    x, names = images(model), ["one", "two", "an image with a long name.png"]
    pixels = x.sigmoid()
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
    maps = prompt_maps(model, x, chosen)
    figure = maps_figure(pixels, names, maps, chosen, "title")
    assert len(figure.axes) == 3 * 5 + 1
    titles = [axes.get_title() for axes in figure.axes[1:5]] + [
        axes.get_title("left") for axes in figure.axes[1:5]
    ]
    assert [title for title in titles if title] == [
        *("0.1 attends to", "2.3 attends to", "0.1 receives from", "2.3 receives from")
    ]
    assert maps.from_prompts is not None
    torch.testing.assert_close(
        torch.as_tensor(figure.axes[5 + 2].images[1].get_array()), maps.from_prompts[1, 1]
    )
    figure.canvas.draw()
    figure = maps_figure(pixels, names, maps._replace(from_prompts=None), chosen, "title")
    assert len(figure.axes) == 3 * 3 + 1  # keys and values attend to nothing
    drawn = torch.as_tensor(figure.axes[3 + 2].images[1].get_array())
    torch.testing.assert_close(drawn, maps.to_prompts[1, 1])
    figure.canvas.draw()

    with_prompts, without = rollout(model, x), rollout(model, x, prompts=False)
    figure = rollout_figure(pixels, names, with_prompts, without, "title")
    share = with_prompts.patches[1] / with_prompts.patches[1].sum()
    torch.testing.assert_close(torch.as_tensor(figure.axes[4].images[1].get_array()), share)
    percent = 100 * float(with_prompts.prompts[1].sum())
    assert f"take {percent:.0f} %" in figure.axes[4].get_title("left")
    figure.canvas.draw()

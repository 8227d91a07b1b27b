import math

import numpy as np
import torch

from pcvpt.analysis.maps import kept_figure, score_figure


def test_the_map_of_scores_is_logarithmic_with_gaps_where_there_is_none() -> None:
    scores = torch.tensor([[1.0, 100.0, 0.0], [float("-inf"), 0.01, float("nan")]])
    figure = score_figure(scores.double())
    axes, bar = figure.axes
    drawn = np.ma.filled(axes.images[0].get_array(), math.nan)
    expected = [[0.0, 2.0, math.nan], [math.nan, -2.0, math.nan]]
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    assert "log10" in bar.get_ylabel()
    figure.canvas.draw()


def test_the_map_of_kept_prompts_counts_each_layer() -> None:
    keep = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    figure = kept_figure(keep)
    (axes,) = figure.axes
    assert np.array_equal(axes.images[0].get_array(), keep.numpy())
    labels = {round(text.get_position()[1]): text.get_text() for text in axes.texts}
    assert labels == {0: "3", 1: "0", 2: "1"}
    assert axes.get_title() == "4 of 12 prompts kept"
    assert list(axes.get_yticks()) == [0, 1, 2]
    figure.canvas.draw()


def test_a_map_of_one_layer_is_drawn() -> None:
    kept_figure(torch.ones(1, 200, dtype=torch.bool)).canvas.draw()
    score_figure(torch.rand(1, 200)).canvas.draw()

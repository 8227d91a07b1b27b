import math

import numpy as np
import pytest
import torch

from pcvpt.analysis.figures.prompt_maps import (
    assignment_figure,
    kept_figure,
    score_figure,
    similarity_figure,
)


def test_the_map_of_scores_is_logarithmic_with_gaps_where_there_is_none() -> None:
    scores = torch.tensor([[1.0, 100.0, 0.0], [float("-inf"), 0.01, float("nan")]])
    figure = score_figure(scores.double())
    axes, bar = figure.axes
    drawn = np.ma.filled(axes.images[0].get_array(), math.nan)
    expected = [[0.0, 2.0, math.nan], [math.nan, -2.0, math.nan]]
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    assert "log10" in bar.get_ylabel()


def test_the_map_of_kept_prompts_counts_each_layer() -> None:
    keep = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    figure = kept_figure(keep)
    (axes,) = figure.axes
    assert np.array_equal(axes.images[0].get_array(), keep.numpy())
    labels = {round(text.get_position()[1]): text.get_text() for text in axes.texts}
    assert labels == {0: "3", 1: "0", 2: "1"}
    assert axes.get_title() == "4 of 12 prompts kept"
    assert list(axes.get_yticks()) == [0, 1, 2]


def test_the_map_of_similarity_names_the_blocks_where_they_are() -> None:
    layers = torch.tensor([0, 0, 0, 2, 5, 5])
    figure = similarity_figure(torch.eye(6), layers)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "2", "5"]
    assert list(axes.get_xticks()) == [1.0, 3.0, 4.5]
    assert axes.get_title().startswith("Similarity of 6 prompts.")
    axes = similarity_figure(torch.eye(6), layers, total=1234).axes[0]
    assert axes.get_title().startswith("Similarity of 6 of 1,234 prompts.")


def test_the_map_of_a_merge_has_one_colour_for_prompts_that_became_one() -> None:
    assignment = torch.tensor([[[0, 1, 1], [0, 0, -1]], [[0, 1, 2], [-1, -1, 0]]])
    figure = assignment_figure(assignment, [2, 3])
    (axes,) = figure.axes
    drawn = np.ma.filled(axes.images[0].get_array(), -1)
    assert drawn.tolist() == assignment.flatten(0, 1).tolist()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    (right,) = axes.child_axes
    assert [label.get_text() for label in right.get_yticklabels()] == ["2", "3"]
    assert axes.get_title() == "6 prompts merged to 5; one row for each head of a block"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][1] == "dropped"


def test_rows_with_the_same_groups_look_the_same() -> None:
    assignment = torch.tensor([[[2, 0, 0, -1, 1], [0, 1, 1, -1, 2]]])
    (axes,) = assignment_figure(assignment, [3]).axes
    drawn = np.ma.filled(axes.images[0].get_array(), -1)
    assert drawn.tolist() == [[0, 1, 1, -1, 2]] * 2


def test_heads_that_a_block_does_not_have_are_not_drawn_as_dropped() -> None:
    assignment = torch.full((3, 4, 2), -1)
    assignment[0, :2] = torch.tensor([0, -1])
    assignment[2] = torch.tensor([0, 1])
    (axes,) = assignment_figure(assignment, [1, 0, 2]).axes
    drawn = np.ma.filled(axes.images[0].get_array(), -1)
    # Two heads, then the block that keeps nothing, then four heads.
    assert drawn.tolist() == [[0, -1]] * 2 + [[-1, -1]] + [[0, 1]] * 4
    assert list(axes.get_yticks()) == [0.5, 2.0, 4.5]


@pytest.mark.parametrize("count", [1, 2, 6, 7, 20, 60, 200])
def test_merged_prompts_of_a_row_have_different_colours_and_none_looks_dropped(count: int) -> None:
    (axes,) = assignment_figure(torch.arange(count)[None, None], [count]).axes
    (image,) = axes.images
    colours = image.to_rgba(image.get_array())[0, :, :3]
    assert len({tuple(colour) for colour in colours.tolist()}) == count
    assert (np.ptp(colours, axis=1) > 0.2).all()  # grey has three equal parts

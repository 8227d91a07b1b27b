"""Figures of scores, spectra and layers: what they draw and how it is labelled."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from pcvpt.analysis.attention_spectrum import over_blocks
from pcvpt.analysis.figures.layers import layers_figure
from pcvpt.analysis.figures.scores import correlation_figure, masked_accuracy_figure
from pcvpt.analysis.figures.spectrum import Spectrum, spectrum_figure
from pcvpt.analysis.layer_removal import Removals


def _legend(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def _lines(axes: Axes) -> dict[str, list[list[float]]]:
    return {str(line.get_label()): line.get_xydata().tolist() for line in axes.get_lines()}  # type: ignore[union-attr]


def test_scores_are_sorted_by_accuracy_with_a_panel_for_each_budget() -> None:
    accuracies = {
        (keep, scope, method): [value, value + 2]
        for keep in (0.1, 0.3)
        for scope in ("global", "layer")
        for method, value in (("gate", 60.0), ("magnitude", 70.0), ("random", 40.0))
    }
    left, right = masked_accuracy_figure(accuracies, 80.0, "of a test").axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["random", "gate", "magnitude"]
    assert right.get_title("left") == "30 % of the prompts kept"
    points = [np.array(line.get_xdata()) for line in left.get_lines() if line.get_marker() == "o"]
    assert points[0] == pytest.approx([41, 61, 71])


def test_correlations_are_written_into_their_cells() -> None:
    matrix = torch.tensor([[1.0, -0.25], [-0.25, 1.0]])
    axes = correlation_figure(matrix, ["gate", "random"], "of a test").axes[0]
    assert [text.get_text() for text in axes.texts] == ["1.00", "−0.25", "−0.25", "1.00"]


def test_a_spectrum_is_a_curve_from_zero_and_a_point_of_its_rank() -> None:
    curve = over_blocks([torch.tensor([[0.6, 1.0], [0.8, 1.0]], dtype=torch.float64)])
    spectra = [Spectrum("none", 17, *curve, 2.0, 0.1), Spectrum("all", 37, *curve, 3.0, 0.2)]
    left, right = spectrum_figure(spectra, 0.9, "eigen", "of a test").axes
    assert _legend(left) == ["none", "all"]
    np.testing.assert_allclose(_lines(left)["none"], [[0, 0], [1, 70], [2, 100]])
    assert right.get_xscale() == "log"
    assert right.get_title("left") == "Rank needed for 90 %"


def test_layers_are_drawn_beside_all_and_no_prompts() -> None:
    found = Removals(75.0, 40.0, [70.0, 60.0, 74.0], [45.0, 50.0, 41.0], [4, 4, 4], 100)
    without, only = (
        {label: [y for _, y in line] for label, line in _lines(axes).items()}
        for axes in layers_figure(found, "of a test").axes
    )
    untouched = {"all prompts (± standard error)": [75.0, 75.0]}
    assert without == {**untouched, "without this block's prompts": found.without}
    none = {"no prompts": [40.0, 40.0]}
    assert only == {**untouched, "with this block's prompts alone": found.only, **none}

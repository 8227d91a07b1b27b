"""Figures of the page. They need matplotlib, so the inspector imports this module on its own."""

from pcvpt.analysis.figures.attention import received_figure
from pcvpt.analysis.figures.predictions import confusion_figure, sample_figure
from pcvpt.analysis.figures.prompt_maps import (
    counts_figure,
    kept_figure,
    score_figure,
    similarity_figure,
)
from pcvpt.analysis.figures.style import pixels_of

__all__ = [
    "confusion_figure",
    "counts_figure",
    "kept_figure",
    "pixels_of",
    "received_figure",
    "sample_figure",
    "score_figure",
    "similarity_figure",
]

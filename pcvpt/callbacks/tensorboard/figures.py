"""Figures of the board; they need matplotlib, so the inspector imports this module separately."""

from pcvpt.analysis.figures.attention import received_figure as received_figure
from pcvpt.analysis.figures.prompt_maps import assignment_figure as assignment_figure
from pcvpt.analysis.figures.prompt_maps import kept_figure as kept_figure
from pcvpt.analysis.figures.prompt_maps import score_figure as score_figure
from pcvpt.analysis.figures.prompt_maps import similarity_figure as similarity_figure
from pcvpt.analysis.figures.style import pixels_of as pixels_of

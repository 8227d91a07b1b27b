"""Prompt Condensation as pure functions: score prompts, select those to keep."""

from pcvpt.condensation.scoring import DEFAULT_SCORE, Method, score_prompts
from pcvpt.condensation.selection import Scope, largest_cut, select_prompts

__all__ = ["DEFAULT_SCORE", "Method", "Scope", "largest_cut", "score_prompts", "select_prompts"]

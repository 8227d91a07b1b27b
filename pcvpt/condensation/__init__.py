"""Prompt Condensation as pure functions: score prompts, select those to keep."""

from pcvpt.condensation.scoring import DEFAULT_SCORE, Method, score_prompts
from pcvpt.condensation.selection import Scope, fewest_within_drop, select_prompts

__all__ = [
    "DEFAULT_SCORE",
    "Method",
    "Scope",
    "fewest_within_drop",
    "score_prompts",
    "select_prompts",
]

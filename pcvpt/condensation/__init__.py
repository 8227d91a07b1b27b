"""Prompt Condensation as pure functions: score prompts, select those to keep, or merge them."""

from pcvpt.condensation.merging import MergeTree, evenly, merge_prompts, merge_tree, merged_form
from pcvpt.condensation.scoring import DEFAULT_SCORE, Method, score_prompts
from pcvpt.condensation.selection import Scope, fewest_within_drop, select_prompts

__all__ = [
    "DEFAULT_SCORE",
    "MergeTree",
    "Method",
    "Scope",
    "evenly",
    "fewest_within_drop",
    "merge_prompts",
    "merge_tree",
    "merged_form",
    "score_prompts",
    "select_prompts",
]

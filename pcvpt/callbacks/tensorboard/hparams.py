"""Row of a run in TensorBoard's table of runs, and the charts that several curves share."""

import math
from typing import Any, cast

import lightning.pytorch as pl

from pcvpt.training.callback_protocols import HasSettings, image_data
from pcvpt.training.module import PromptTuner
from pcvpt.training.phases import named

LAYOUT: dict[str, dict[str, list[Any]]] = {
    "Training": {
        "accuracy": ["Multiline", [r"^train/accuracy$", r"^val/accuracy$"]],
        "loss": ["Multiline", [r"^train/loss$", r"^val/loss$"]],
        "learning rate": ["Multiline", [r"^learning_rate$"]],
        "phase (1: fine-tuning)": ["Multiline", [r"^phase$"]],
    },
    "Prompts, by block": {
        "attention given to the prompts": ["Multiline", [r"^attention/block_"]],
        "norm of a prompt": ["Multiline", [r"^prompt_norm/block_"]],
        "norm of the gradient": ["Multiline", [r"^prompt_gradient/block_"]],
    },
    "Condensing": {
        "kept, over blocks": ["Multiline", [r"^prompts/kept_per_block"]],
        "accuracy, over kept prompts": ["Multiline", [r"^condense/accuracy_.*_by_prompts$"]],
    },
}
_METRICS = ("accuracy_before", "accuracy_masked", "accuracy_finetuned", "score_agreement")


def settings(trainer: pl.Trainer, module: PromptTuner) -> dict[str, str | float | int | bool]:
    """Return the options of a run by name, as the table of runs of TensorBoard needs them."""
    names = ("backbone", "mode", "num_prompts", "head_init", "prompt_init", "prompt_dropout")
    found: dict[str, Any] = {name: module.made_by[name] for name in names}
    found["execution"] = module.model.execution
    for name, recipe in zip(("prompt", "finetune"), module.recipes, strict=True):
        found[f"{name}_lr"] = float(recipe.base_lr)
        found[f"{name}_weight_decay"] = float(recipe.weight_decay)
    found |= {"global_batch": module.global_batch, "seed": module.run_seed}
    data = image_data(trainer)
    if data is not None:
        found["data"] = type(data).__name__
    for callback in cast(Any, trainer).callbacks:
        if isinstance(callback, HasSettings):
            found |= callback.settings()
    return found


def final_metrics(report: dict[str, Any]) -> dict[str, float]:
    """Return the final figures of the run by the tags of their curves, one for each budget."""
    entries = report.get("budgets", [])
    parts = [("", report), *((str(float(entry["keep"])), entry) for entry in entries)]
    return {
        named(f"condense/{name}", budget): part[name]
        for budget, part in parts
        for name in _METRICS
        if name in part and math.isfinite(part[name])
    }

"""One mask after another: how well each does without fine-tuning."""

from collections.abc import Mapping
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from pcvpt.training.evaluation import accuracy
from pcvpt.training.hooks import HearsPromptsMasked
from pcvpt.training.module import PromptTuner


def measure_masks(trainer: pl.Trainer, module: PromptTuner, masks: Mapping[str, Tensor]) -> None:
    """Apply each mask, report on it, and tell the other callbacks; restore the present mask.

    All processes must call this together.

    Args:
        trainer: Trainer of ``module``.
        module: Module whose report gets ``kept`` and ``accuracy_masked`` of each budget.
        masks: Mask of each budget ``(l, p)`` by name.
    """
    bank, report = module.model.prompts, module.report
    before = bank.keep.clone()
    for budget, mask in masks.items():
        bank.apply_mask(list(mask))
        entry, kept = report.entry(budget), bank.counts()
        if budget:
            entry["prompts_kept"] = sum(kept)
        entry["kept"] = kept
        entry["accuracy_masked"] = accuracy(trainer, module)
        rank_zero_info(
            "Condensed: kept %d of %d prompts; validation accuracy %.2f %% -> %.2f %%",
            *(sum(kept), bank.keep.numel()),
            *(report.figures["accuracy_before"], entry["accuracy_masked"]),
        )
        report.log_point(trainer, "accuracy_masked", budget)
        report.clock("seconds_condense")
        for callback in cast(Any, trainer).callbacks:
            if isinstance(callback, HearsPromptsMasked):
                callback.on_prompts_masked(trainer, module, budget)
        report.start_clock()  # the time of other callbacks counts for nothing
    bank.apply_mask(list(before))

"""Scoring of the prompts, choice of masks, and how well each mask does without fine-tuning."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from pcvpt.condensation import Method, Scope, fewest_within_drop, select_prompts
from pcvpt.condensation.scoring import score_with_halves
from pcvpt.condensation.split_half import split_half_agreement
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.training.callback_protocols import HearsPromptsMasked, HearsPromptsTrained, image_data
from pcvpt.training.evaluation import accuracy, as_in_a_step
from pcvpt.training.module import PromptTuner


def condense(
    trainer: pl.Trainer,
    module: PromptTuner,
    budgets: Mapping[str, float | None],
    method: Method,
    scope: Scope,
    count: int | None,
    max_drop: float | None,
    seed: int,
) -> dict[str, Tensor]:
    """Score the prompts in one pass over the training split, and choose a mask for each budget.

    The split is read without augmentation if the data module can do that, for as many batches as
    an epoch has. The report of ``module`` gets what is measured, other callbacks are told, and the
    phase becomes that of the masked models. The mask stays the present one. All processes must
    call this together. The options are those of :class:`pcvpt.PromptCondensation`, and ``budgets``
    its fractions by name.

    Returns:
        Mask of each budget, True for prompts to keep, ``(l, p)``.
    """
    bank, report = module.model.prompts, module.report
    report.clock("seconds_prompt")
    for callback in cast(Any, trainer).callbacks:
        if isinstance(callback, HearsPromptsTrained):
            callback.on_prompts_trained(trainer, module)
    report.start_clock()
    report.figures["accuracy_before"] = accuracy(trainer, module)
    data = image_data(trainer)
    loader = trainer.train_dataloader if data is None else data.scoring_dataloader()
    batches = islice(cast(Iterable[Sequence[Tensor]], loader), int(trainer.num_training_batches))
    scores, halves = score_with_halves(
        module.model,
        as_in_a_step(trainer, batches),
        method,
        seed=seed,
        all_reduce=lambda value: cast(Tensor, trainer.strategy.reduce(value, reduce_op="sum")),
    )

    def evaluate(keep: list[Tensor]) -> float:
        bank.apply_mask(keep)
        return accuracy(trainer, module)

    def select(fraction: float | None) -> list[Tensor]:
        if max_drop is not None:
            return fewest_within_drop(scores, evaluate, max_drop, scope, stages=bank.stages)
        return select_prompts(scores, fraction, scope, count=count, stages=bank.stages)

    with evaluating(module.model):  # which restores the mask
        masks = torch.stack([torch.stack(select(fraction)) for fraction in budgets.values()])
    first = trainer.strategy.broadcast(masks, src=0)
    if not torch.equal(first.to(masks.device), masks):
        raise RuntimeError("the processes chose different prompts; please report this")
    bank.scores.copy_(torch.stack(scores))
    agreement = split_half_agreement(halves, bank.keep)
    if agreement is not None:
        report.figures["score_agreement"] = agreement
    report.figures["prompts"] = bank.keep.numel()
    if len(budgets) > 1:
        report.figures["budgets"] = [{"keep": fraction} for fraction in budgets.values()]
    if module.schedule.budgets:
        module.start_finetuning()  # the masked models are of that phase
    by_budget = dict(zip(budgets, masks.unbind(), strict=True))
    everything = bank.keep.clone()
    for budget, mask in by_budget.items():
        bank.apply_mask(list(mask))
        _measure_mask(trainer, module, budget)
    bank.apply_mask(list(everything))
    report.clock("seconds_condense")
    report.log(trainer)
    return by_budget


def _measure_mask(trainer: pl.Trainer, module: PromptTuner, budget: str) -> None:
    """Report on the mask that is on, and tell the other callbacks of it."""
    report, kept = module.report, module.model.prompts.counts()
    entry = report.entry(budget)
    if budget:
        entry["prompts_kept"] = sum(kept)
    entry["kept"] = kept
    entry["accuracy_masked"] = accuracy(trainer, module)
    before, after = report.figures["accuracy_before"], entry["accuracy_masked"]
    rank_zero_info(
        f"Condensed: kept {sum(kept)} of {report.figures['prompts']} prompts; "
        f"validation accuracy {before:.2f} % -> {after:.2f} %"
    )
    report.log_point(trainer, "accuracy_masked", budget)
    report.clock("seconds_condense")
    for callback in cast(Any, trainer).callbacks:
        if isinstance(callback, HearsPromptsMasked):
            callback.on_prompts_masked(trainer, module, budget)
    report.start_clock()  # the time of other callbacks counts for nothing

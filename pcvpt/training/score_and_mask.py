"""Scoring of the prompts, the choice for each budget, and its accuracy without fine-tuning."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pcvpt.condensation import (
    MergeTree,
    Method,
    Scope,
    evenly,
    fewest_within_drop,
    merge_tree,
    merged_form,
    select_prompts,
)
from pcvpt.condensation.scoring import rank_correlation, score_with_halves
from pcvpt.errors import UsageError
from pcvpt.models.prompt_bank import Form, MergedLayer
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.training.callback_protocols import HearsPromptsMasked, HearsPromptsTrained, image_data
from pcvpt.training.evaluation import accuracy, as_in_a_step
from pcvpt.training.module import PromptTuner
from pcvpt.training.recipe import images_per_batch

Condensing = Literal["prune", "merge"]

# A mask (l, p), or the fields of the MergedLayer of each layer: plain, as checkpoints hold it.
Choice = Tensor | list[dict[str, Any]]


@dataclass(frozen=True)
class Options:
    """Options of :class:`pcvpt.PromptCondensation` that decide what a budget leaves."""

    method: Condensing
    score: Method
    scope: Scope
    count: int | None
    max_drop: float | None
    finetune_as: Form | None
    seed: int

    def finetuned_form(self, model: PromptedTransformer, budgets: Collection[str]) -> Form | None:
        """Return the form that fine-tuning trains, None for that of ``model``.

        A UsageError is raised if the model does not take it.
        """
        form = self.finetune_as
        if budgets and self.method == "merge":
            return merged_form(model, form)
        if budgets and form == "key_value":
            model.require_key_value()
        elif form == "token" and model.prompts.form != "token":
            raise UsageError("condense.finetune_as='token' is not for mode 'prefix'; leave it out")
        return form


def condense(
    trainer: pl.Trainer,
    module: PromptTuner,
    budgets: Mapping[str, float | None],
    options: Options,
) -> dict[str, Choice]:
    """Score the prompts in one pass over the training split, and choose what each budget leaves.

    The split is read without augmentation if the data module can do that, for as many batches as
    an epoch has. The phase becomes that of the condensed models; the prompts stay the present ones.
    All processes must call this together. ``budgets`` has fractions by name.
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

    def batches() -> Iterator[Sequence[Tensor]]:
        first = islice(cast(Iterable[Any], loader), int(trainer.num_training_batches))
        return as_in_a_step(trainer, first)

    scores, halves = score_with_halves(
        module.model,
        batches(),
        options.score,
        seed=options.seed,
        all_reduce=lambda value: cast(Tensor, trainer.strategy.reduce(value, reduce_op="sum")),
    )
    bank.scores.copy_(torch.stack(scores))
    tree = None
    if options.method == "merge":
        tree = _merge_tree(trainer, module, batches(), options)
    whole = {name: value.clone() for name, value in bank.state_dict().items()}

    def choice(keep: list[Tensor]) -> Choice:
        return torch.stack(keep) if tree is None else [part._asdict() for part in tree.at(keep)]

    def evaluate(keep: list[Tensor]) -> float:
        apply_choice(module.model, choice(keep), None)
        found = accuracy(trainer, module)
        bank.load_state_dict(whole)
        return found

    def select(fraction: float | None) -> Choice:
        ranked, scope, stages = scores if tree is None else tree.scores, options.scope, bank.stages
        if options.max_drop is None:
            kept = select_prompts(ranked, fraction, scope, count=options.count, stages=stages)
        else:
            kept = fewest_within_drop(ranked, evaluate, options.max_drop, scope, stages=stages)
        return choice(kept)

    chosen = {budget: select(fraction) for budget, fraction in budgets.items()}
    if tree is None:
        masks = torch.stack(list(cast(Mapping[str, Tensor], chosen).values()))
        first = trainer.strategy.broadcast(masks, src=0)
        if not torch.equal(first.to(masks.device), masks):
            raise RuntimeError("the processes chose different prompts; please report this")
    agreement = rank_correlation(*(half[bank.keep] for half in halves)) if halves else math.nan
    if math.isfinite(agreement):
        report.figures["score_agreement"] = agreement
    report.figures["prompts"] = bank.keep.numel()
    if len(budgets) > 1:
        report.figures["budgets"] = [{"keep": fraction} for fraction in budgets.values()]
    if module.schedule.budgets:
        module.start_finetuning()  # the masked models are of that phase
    for budget, part in chosen.items():
        apply_choice(module.model, part, options.finetune_as)
        _measure_choice(trainer, module, budget)
        bank.load_state_dict(whole)
    report.clock("seconds_condense")
    report.log(trainer)
    return chosen


def _merge_tree(
    trainer: pl.Trainer,
    module: PromptTuner,
    batches: Iterable[Sequence[Tensor]],
    options: Options,
) -> MergeTree:
    """Return the merges by images of the first process, on all processes."""
    tree = None
    if trainer.is_global_zero:
        share = images_per_batch(trainer.train_dataloader) * int(trainer.num_training_batches)
        chosen = evenly(batches, share)
        tree = merge_tree(module.model, chosen, options.finetune_as, seed=options.seed)
    return cast(MergeTree, trainer.strategy.broadcast(tree, src=0))


def _measure_choice(trainer: pl.Trainer, module: PromptTuner, budget: str) -> None:
    """Report on the prompts that are left, and tell the other callbacks of it."""
    report, kept = module.report, module.model.prompts.counts()
    entry = report.entry(budget)
    if budget:
        entry["prompts_kept"] = sum(kept)
    entry["kept"], entry["form"] = kept, module.model.prompts.form
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


def apply_choice(model: PromptedTransformer, choice: Choice, form: Form | None) -> None:
    """Leave only ``choice`` of the prompts of ``model``, as ``form`` where it is given."""
    if isinstance(choice, Tensor):
        model.prompts.apply_mask(list(choice))
    else:
        model.prompts.apply_merge([MergedLayer(**layer) for layer in choice])
    if form == "key_value":
        model.use_keys_values()


def follow_parameters(trainer: pl.Trainer) -> None:
    """Let distributed training use the model's parameters of now; merging makes new ones."""
    strategy = trainer.strategy
    wrapped = strategy.model
    if isinstance(strategy, DDPStrategy) and isinstance(wrapped, DistributedDataParallel):
        reduced = {id(parameter) for parameter in wrapped.module.parameters()}
        if reduced == {id(parameter) for parameter in wrapped._module_parameters}:
            return
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()

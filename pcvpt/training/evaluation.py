"""Accuracy, and the choice of prompts, within a run and over all of its processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from pcvpt.condensation import Method, Scope, largest_cut, select_prompts
from pcvpt.condensation.scoring import DEFAULT_SCORE, score_with_halves
from pcvpt.condensation.split_half import split_half_agreement
from pcvpt.data.samplers import IGNORED
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.runs import signals
from pcvpt.training.hooks import image_data
from pcvpt.training.module import PromptTuner


class Choice(NamedTuple):
    """Prompts to keep.

    Attributes:
        scores: Scores of each layer, ``(p,)``.
        masks: Mask of each budget, True for prompts to keep, ``(budgets, l, p)``.
        agreement: Spearman's rank correlation of the scores by the even and by the odd batches.
            None where it is undefined.
    """

    scores: list[Tensor]
    masks: Tensor
    agreement: float | None


def accuracy(trainer: pl.Trainer, module: PromptTuner) -> float:
    """Return the accuracy in percent on the validation split; NaN when there is none.

    Each process evaluates its share, and no image is counted twice; all must call this together.
    """
    sums = torch.zeros(2, dtype=torch.int64, device=module.device)  # read once, at the end

    def note(guesses: Tensor, labels: Tensor) -> None:
        right = guesses == labels  # not where it is IGNORED
        sums.add_(torch.stack([right.sum(), (labels != IGNORED).sum()]))

    _validate(trainer, module, note)
    hits, count = cast(Tensor, trainer.strategy.reduce(sums, reduce_op="sum")).tolist()
    return 100 * hits / count if count else float("nan")


def confusion(trainer: pl.Trainer, module: PromptTuner) -> Tensor:
    """Return the number of validation images ``(k, k)`` by class (row) and prediction (column).

    Each process evaluates its share, and no image is counted twice; all must call this together.
    """
    classes = int(cast(Any, module.model).num_classes)
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=module.device)

    def note(guesses: Tensor, labels: Tensor) -> None:
        counted = (labels != IGNORED).long()
        counts.index_add_(0, labels * counted * classes + guesses, counted)

    _validate(trainer, module, note)
    total = cast(Tensor, trainer.strategy.reduce(counts, reduce_op="sum"))
    return total.view(classes, classes).cpu()


def _validate(
    trainer: pl.Trainer, module: PromptTuner, note: Callable[[Tensor, Tensor], None]
) -> None:
    """Call ``note`` with the guesses and the labels ``(b,)`` of each batch of validation."""
    with evaluating(module.model), trainer.precision_plugin.forward_context():
        for images, labels, *_ in _as_in_a_step(trainer, _validation_batches(trainer)):
            # Not as compiled: that would compile each mask for a single pass.
            note(module.model.forward(images).argmax(1), labels)


def choose(
    trainer: pl.Trainer,
    module: PromptTuner,
    fractions: Sequence[float | None],
    method: Method = DEFAULT_SCORE,
    scope: Scope = "global",
    *,
    count: int | None = None,
    max_drop: float | None = None,
    seed: int = 0,
) -> Choice:
    """Score the prompts in one pass over the training split, and select some for each budget.

    The split is read without augmentation if the data module can do that, for as many batches as
    an epoch has. All processes must call this together.

    Args:
        trainer: Trainer of ``module``.
        module: Module with the prompts to score.
        fractions: Fraction of the prompts to keep, for each budget. None for a budget that
            ``count`` or ``max_drop`` sets.
        method: Method of :func:`pcvpt.score_prompts`.
        scope: Scope of :func:`pcvpt.select_prompts`.
        count: Number of prompts to keep, instead of a fraction.
        max_drop: Points of validation accuracy that may be lost, instead of a fraction.
        seed: Seed of the method "random".
    """
    data = image_data(trainer)
    loader = trainer.train_dataloader if data is None else data.scoring_dataloader()
    batches = islice(cast(Iterable[Sequence[Tensor]], loader), int(trainer.num_training_batches))
    scores, halves = score_with_halves(
        module.model,
        _as_in_a_step(trainer, batches),
        method,
        seed=seed,
        all_reduce=lambda value: cast(Tensor, trainer.strategy.reduce(value, reduce_op="sum")),
    )
    bank = module.model.prompts

    def evaluate(keep: list[Tensor]) -> float:
        bank.apply_mask(keep)
        return accuracy(trainer, module)

    def select(fraction: float | None) -> list[Tensor]:
        if max_drop is not None:
            return largest_cut(scores, evaluate, max_drop, scope, stages=bank.stages)
        return select_prompts(scores, fraction, scope, count=count, stages=bank.stages)

    with evaluating(module.model):  # which restores the mask
        masks = torch.stack([torch.stack(select(fraction)) for fraction in fractions])
    first = trainer.strategy.broadcast(masks, src=0)
    if not torch.equal(first.to(masks.device), masks):
        raise RuntimeError("the processes chose different prompts; please report this")
    return Choice(scores, masks, split_half_agreement(halves, bank.keep))


def _validation_batches(trainer: pl.Trainer) -> Iterable[Sequence[Tensor]]:
    data = cast(Any, trainer).datamodule
    batches = trainer.val_dataloaders if data is None else data.val_dataloader()
    return cast(Iterable[Sequence[Tensor]], batches or ())


def _as_in_a_step(
    trainer: pl.Trainer, batches: Iterable[Sequence[Tensor]]
) -> Iterator[Sequence[Tensor]]:
    """Yield the batches as a step gets them: moved, normalised, in the precision of the run."""
    for batch in batches:
        if trainer.world_size == 1 and signals.received():  # nothing is lost, the epoch was saved
            signals.announce(signals.received())
            raise signals.Interrupted(signals.received())
        converted = trainer.precision_plugin.convert_input(batch)
        yield cast(Sequence[Tensor], trainer.strategy.batch_to_device(converted))

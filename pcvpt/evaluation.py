"""Accuracy, and the choice of prompts, amid a run and over all of its processes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from pcvpt import signals
from pcvpt.condensation import Method, Scope, largest_cut, score_prompts, select_prompts
from pcvpt.data.sampling import IGNORED
from pcvpt.module import PromptTuner


def accuracy(trainer: pl.Trainer, module: PromptTuner) -> float:
    """Return the accuracy in percent on the validation split; NaN when there is none.

    Each process evaluates its share, and no image is counted twice; all must call this together.
    """
    training = module.model.training
    module.model.eval()
    sums = torch.zeros(2, dtype=torch.int64, device=module.device)  # read once, at the end
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for images, labels, *_ in _as_in_a_step(trainer, _validation_batches(trainer)):
            # Not as compiled: that would be done anew for each mask, for one pass.
            right = module.model.forward(images).argmax(1) == labels  # not where it is IGNORED
            sums += torch.stack([right.sum(), (labels != IGNORED).sum()])
    module.model.train(training)
    hits, count = cast(Tensor, trainer.strategy.reduce(sums, reduce_op="sum")).tolist()
    return 100 * hits / count if count else float("nan")


def choose(
    trainer: pl.Trainer,
    module: PromptTuner,
    fractions: Sequence[float | None],
    method: Method = "gate",
    scope: Scope = "global",
    *,
    count: int | None = None,
    max_drop: float | None = None,
    seed: int = 0,
) -> tuple[list[Tensor], Tensor]:
    """Score the prompts in one pass over the training split, and select some for each budget.

    The split is read without augmentation if possible, as many batches as in an epoch. All
    processes must call this together. The mask that is on may be another one afterwards.

    Args:
        trainer: that trains ``module``.
        module: as it is.
        fractions: of the prompts to keep, for each budget; None under the next two.
        method: of :func:`pcvpt.score_prompts`.
        scope: of :func:`pcvpt.select_prompts`.
        count: number of prompts to keep instead.
        max_drop: points of validation accuracy that may be lost instead.
        seed: of the method "random".

    Returns:
        The scores of each layer ``(p,)``, and the masks ``(budgets, l, p)``.
    """
    data = getattr(trainer, "datamodule", None)
    make = getattr(data, "scoring_dataloader", None)
    loader = trainer.train_dataloader if make is None else make()
    batches = islice(cast(Iterable[Sequence[Tensor]], loader), int(trainer.num_training_batches))
    scores = score_prompts(
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

    masks = torch.stack([torch.stack(select(fraction)) for fraction in fractions])
    first = trainer.strategy.broadcast(masks, src=0)
    if not torch.equal(first.to(masks.device), masks):
        raise RuntimeError("the processes chose different prompts; please report this")
    return scores, masks


def _validation_batches(trainer: pl.Trainer) -> Iterable[Sequence[Tensor]]:
    data = getattr(trainer, "datamodule", None)
    batches = trainer.val_dataloaders if data is None else data.val_dataloader()
    return cast(Iterable[Sequence[Tensor]], batches or ())


def _as_in_a_step(
    trainer: pl.Trainer, batches: Iterable[Sequence[Tensor]]
) -> Iterator[Sequence[Tensor]]:
    """Yield the batches as a step would get them: moved, normalised, in the run's precision."""
    for batch in batches:
        if trainer.world_size == 1 and signals.received():  # nothing is lost: the epoch was saved
            signals.announce(signals.received())
            raise signals.Interrupted(signals.received())
        converted = trainer.precision_plugin.convert_input(batch)
        yield cast(Sequence[Tensor], trainer.strategy.batch_to_device(converted))

"""Accuracy and confusion within a run, over all of its processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from pcvpt.data.samplers import IGNORED
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.runs import signals
from pcvpt.training.module import PromptTuner


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
        for images, labels, *_ in as_in_a_step(trainer, _validation_batches(trainer)):
            # Not as compiled: that would compile each mask for a single pass.
            note(module.model.forward(images).argmax(1), labels)


def _validation_batches(trainer: pl.Trainer) -> Iterable[Sequence[Tensor]]:
    data = cast(Any, trainer).datamodule
    batches = trainer.val_dataloaders if data is None else data.val_dataloader()
    return cast(Iterable[Sequence[Tensor]], batches or ())


def as_in_a_step(
    trainer: pl.Trainer, batches: Iterable[Sequence[Tensor]]
) -> Iterator[Sequence[Tensor]]:
    """Yield the batches as a step gets them: moved, normalised, in the precision of the run."""
    for batch in batches:
        if trainer.world_size == 1 and signals.received():  # nothing is lost, the epoch was saved
            signals.announce(signals.received())
            raise signals.Interrupted(signals.received())
        converted = trainer.precision_plugin.convert_input(batch)
        yield cast(Sequence[Tensor], trainer.strategy.batch_to_device(converted))

"""Accuracy within a run, over all of its processes, and on which part of a split."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.data import sized_len
from torch import Tensor

from pcvpt.data.samplers import IGNORED
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.runs import signals
from pcvpt.training.metrics import Answers, LastAnswers, answers
from pcvpt.training.module import PromptTuner


def part_of(batches: Sequence[float], loader: Any) -> str:
    """Return the part of ``loader`` that a limit of the Trainer leaves, "" for the whole.

    ``batches`` are the numbers of batches that it takes, such as its ``num_val_batches``.
    """
    whole = sized_len(loader)
    return f"{sum(batches)} of {whole} batches" if whole and sum(batches) < whole else ""


def accuracy(trainer: pl.Trainer, module: PromptTuner) -> float:
    """Return the accuracy in percent on the validation split; NaN when there is none.

    If a limit leaves a part of the split, the report says which. Each process evaluates its share,
    and no image is counted twice; all must call this together.
    """
    counts = torch.zeros(2, dtype=torch.int64, device=module.device)
    for labels, guesses, _ in answered(trainer, module):
        counts += torch.stack([(guesses == labels).sum(), (labels != IGNORED).sum()])
    part = part_of(trainer.num_val_batches, trainer.val_dataloaders)
    if part:
        module.report.figures["validated"] = part
    # They are read here for the first time: no batch waits for the device.
    hits, count = cast(Tensor, trainer.strategy.reduce(counts, reduce_op="sum")).tolist()
    return 100 * hits / count if count else float("nan")


def answered(trainer: pl.Trainer, module: PromptTuner) -> Sequence[Answers]:
    """Return the answers of the model to each batch of validation images of this process.

    They are those of the last pass over the split if the model has not changed since.
    """
    model, known = module.model, module.last_answers
    if len(known.batches) == sum(trainer.num_val_batches) and known.are_of(model):
        return known.batches
    module.last_answers = LastAnswers(model)
    with evaluating(model), trainer.precision_plugin.forward_context():
        for images, labels, *_ in validation_batches(trainer):
            # Not as compiled: that would compile each mask for a single pass.
            module.last_answers.batches.append(answers(model.forward(images), labels))
    return module.last_answers.batches


def validation_batches(trainer: pl.Trainer) -> Iterator[Sequence[Tensor]]:
    """Yield the batches of validation images of this process, as a step gets them."""
    data = cast(Any, trainer).datamodule
    loader: Any = trainer.val_dataloaders if data is None else data.val_dataloader()
    limit = min(trainer.num_val_batches, default=0)
    batches = islice(loader or (), None if limit == float("inf") else int(limit))
    yield from as_in_a_step(trainer, batches)


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

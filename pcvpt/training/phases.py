"""Epochs of the two phases of a run, when the first ends, and the budgets that are fine-tuned."""

from collections.abc import Sequence
from dataclasses import dataclass

import lightning.pytorch as pl

from pcvpt.condensation.selection import check_budget, check_drop
from pcvpt.errors import UsageError
from pcvpt.training.preflight import check_monitor


@dataclass
class Schedule:
    """Prompt training, then one fine-tuning for each budget, all of the same length.

    A UsageError is raised for a phase without an epoch.
    """

    prompt_epochs: int  # fewer once it has ended early
    finetune_epochs: int = 0
    budgets: tuple[str, ...] = ()  # names of those to fine-tune; that of the only one is ""

    def __post_init__(self) -> None:
        if self.prompt_epochs < 1:
            raise UsageError(f"condense.prompt_epochs={self.prompt_epochs}; give at least 1")
        if self.budgets and self.finetune_epochs < 1:
            raise UsageError(
                f"condense.finetune_epochs={self.finetune_epochs} leaves no epoch to fine-tune the "
                "kept prompts; give at least 1, or condense.keep=null for plain VPT"
            )

    @property
    def total_epochs(self) -> int:
        """Epochs of the run."""
        return self.prompt_epochs + len(self.budgets) * self.finetune_epochs

    def budget(self, epoch: int) -> str:
        """Return the name of the budget that ``epoch`` fine-tunes, "" in prompt training."""
        number = self._number(epoch)
        return "" if number is None else self.budgets[number]

    def single_budget_epoch(self, epoch: int) -> int:
        """Return the number that ``epoch`` would have in a run with its budget alone."""
        return epoch - (self._number(epoch) or 0) * self.finetune_epochs

    def ends_phase(self, epochs: int) -> bool:
        """Return whether a phase, or the fine-tuning of a budget, is over after ``epochs``."""
        if epochs in (self.prompt_epochs, self.total_epochs):
            return True
        return epochs < self.total_epochs and self.budget(epochs) != self.budget(epochs - 1)

    def check_resumed(self, budgets: Sequence[str], finetune_epochs: int) -> None:
        """Raise a UsageError if this run can't resume one with these other fine-tunings."""
        saved = Schedule(self.prompt_epochs, finetune_epochs, tuple(budgets))
        if saved.budgets != self.budgets or (len(budgets) > 1 and saved != self):
            raise UsageError(
                f"the checkpoint was saved in the fine-tuning of {saved}, the configuration has "
                f"{self}; resume with the same condense section, or resume prompt-last.ckpt"
            )

    def __str__(self) -> str:
        names = ", ".join(self.budgets) or ("one budget" if self.budgets else "none")
        return f"{names} for {self.finetune_epochs} epochs each"

    def _number(self, epoch: int) -> int | None:
        if not self.budgets or epoch < self.prompt_epochs:
            return None
        passed = (epoch - self.prompt_epochs) // self.finetune_epochs
        return min(passed, len(self.budgets) - 1)


class Patience:
    """Early end of prompt training, after ``limit`` validations without a higher metric.

    With ``limit=None`` it waits for ever. A UsageError is raised for fewer than one validation, and
    for a metric of the test split, or a loss.
    """

    def __init__(self, limit: int | None, monitor: str) -> None:
        if limit is not None and limit < 1:
            raise UsageError(f"condense.patience={limit}; give at least 1 validation, or null")
        check_monitor(monitor, "condense.monitor")
        self.limit, self.monitor = limit, monitor
        self.best, self.waited = float("-inf"), 0  # both in the checkpoints of a run

    @property
    def is_over(self) -> bool:
        """Whether the number of validations has passed."""
        return self.limit is not None and self.waited >= self.limit

    def note_validation(self, trainer: pl.Trainer) -> None:
        """Count a validation of prompt training."""
        if self.limit is None:
            return
        found = trainer.callback_metrics.get(self.monitor)
        if found is None:
            raise UsageError(f"condense.monitor={self.monitor!r} is not logged in validation")
        if not trainer.sanity_checking:
            self.waited = 0 if float(found) > self.best else self.waited + 1
            self.best = max(self.best, float(found))

    def note_epoch(self, trainer: pl.Trainer) -> bool:
        """Return whether to wait no more after an epoch of prompt training."""
        every, none = trainer.check_val_every_n_epoch, self.best == float("-inf")
        due = every is not None and (trainer.current_epoch + 1) % every == 0
        if self.limit is not None and due and none and not self.waited:
            raise UsageError(
                f"condense.patience={self.limit}, but there is no validation; give val, or null"
            )
        return self.is_over


def named(what: str, budget: str) -> str:
    """Return the name of ``what`` for ``budget``: "masked_0.3" among several, "masked" for one."""
    return f"{what}_{budget}" if budget else what


def budgets_of(
    keep: float | Sequence[float] | None,
    count: int | None = None,
    max_drop: float | None = None,
    finetune_keep: Sequence[float] | None = None,
) -> tuple[dict[str, float | None], tuple[str, ...]]:
    """Return the budgets of a run, and the names of those to fine-tune, in order.

    The arguments are those of :class:`pcvpt.PromptCondensation`; a UsageError is raised for wrong
    ones. Budgets are fractions by name: None for ``count`` and ``max_drop``; none for plain VPT.
    """
    given = [budget for budget in (keep, count, max_drop) if budget is not None]
    if len(given) > 1:
        raise UsageError(
            f"condense: keep={keep}, count={count}, max_drop={max_drop}; give one of them only"
        )
    if keep is None:
        if finetune_keep is not None:
            raise UsageError(
                f"condense.finetune_keep={finetune_keep} chooses among keep=null; give null too"
            )
        if count is not None:
            check_budget(None, count)
        if max_drop is not None:
            check_drop(max_drop)
        names = [""] if given else []
        return dict.fromkeys(names), tuple(names)
    kept = list(keep) if isinstance(keep, Sequence) else [keep]
    tuned = kept if finetune_keep is None else list(finetune_keep)
    if not kept:
        raise UsageError(
            "condense.keep=[] holds no fraction; give at least one, or null for plain VPT"
        )
    for fraction in kept:
        check_budget(fraction, None)
    for option, values in ("keep", kept), ("finetune_keep", tuned):
        if len(set(values)) < len(values):
            raise UsageError(f"condense.{option}={values} has a fraction twice; leave one out")
    for fraction in tuned:
        if fraction not in kept:
            raise UsageError(
                f"condense.finetune_keep={tuned}: {fraction} is not in condense.keep={kept}; add it"
            )
    by_fraction = {float(f): str(float(f)) if len(kept) > 1 else "" for f in kept}
    return {name: f for f, name in by_fraction.items()}, tuple(by_fraction[float(f)] for f in tuned)

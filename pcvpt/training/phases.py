"""The epochs of a run, and the budgets they belong to."""

from collections.abc import Sequence
from dataclasses import dataclass

from pcvpt.condensation.selection import check_budget, check_drop
from pcvpt.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """Prompt training, then one fine-tuning for each budget, all of them equally long.

    Args:
        prompt_epochs: of prompt training, at least 1.
        finetune_epochs: of each fine-tuning, at least 1 where there is any.
        budgets: names of what is fine-tuned, in order; the only one of a run is named "".
    """

    prompt_epochs: int
    finetune_epochs: int = 0
    budgets: tuple[str, ...] = ()

    @property
    def phase_epochs(self) -> tuple[int, int]:
        """Epochs for which an optimizer of either phase trains."""
        return self.prompt_epochs, self.finetune_epochs

    @property
    def total_epochs(self) -> int:
        """Length of the run."""
        return self.prompt_epochs + len(self.budgets) * self.finetune_epochs

    def budget(self, epoch: int) -> str:
        """Return the name of what is fine-tuned in ``epoch``, "" in prompt training."""
        number = self._number(epoch)
        return "" if number is None else self.budgets[number]

    def alone(self, epoch: int) -> int:
        """Return what ``epoch`` would be in a run with its budget alone."""
        return epoch - (self._number(epoch) or 0) * self.finetune_epochs

    def check_resumed(self, budgets: Sequence[str], finetune_epochs: int) -> None:
        """Raise a UsageError if a run that fine-tunes ``budgets`` can't go on as this one does."""
        saved = Plan(self.prompt_epochs, finetune_epochs, tuple(budgets))
        if saved.budgets != self.budgets or (len(budgets) > 1 and saved != self):
            raise UsageError(
                f"the checkpoint is amid the fine-tuning of {saved}, the configuration says {self};"
                " resume with the same condense section, or prompt-last.ckpt with another"
            )

    def __str__(self) -> str:
        names = ", ".join(self.budgets) or ("one budget" if self.budgets else "none")
        return f"{names} for {self.finetune_epochs} epochs each"

    def _number(self, epoch: int) -> int | None:
        if not self.budgets or epoch < self.prompt_epochs:
            return None
        passed = (epoch - self.prompt_epochs) // self.finetune_epochs
        return min(passed, len(self.budgets) - 1)


def named(what: str, budget: str) -> str:
    """Return ``what`` of ``budget``: as it is for the only one, "masked_0.3" among several."""
    return f"{what}_{budget}" if budget else what


def budgets_of(
    keep: float | Sequence[float] | None,
    count: int | None = None,
    max_drop: float | None = None,
    finetune_keep: Sequence[float] | None = None,
) -> tuple[dict[str, float | None], tuple[str, ...]]:
    """Return what the prompts are condensed to, and which of that is fine-tuned, in order.

    Args:
        keep: fraction of all prompts to keep, in (0, 1], or several.
        count: a number of prompts instead.
        max_drop: a loss of accuracy in percentage points instead.
        finetune_keep: those of ``keep`` to fine-tune; None for all.

    Returns:
        The budgets, fractions by name (None for one of another kind; none at all for plain VPT),
        and the names of those to fine-tune.

    Raises:
        UsageError: for more than one of ``keep``, ``count`` and ``max_drop``, numbers out of range,
            an empty list, a fraction that is there twice, or one to fine-tune that is not in
            ``keep``.
    """
    given = [budget for budget in (keep, count, max_drop) if budget is not None]
    if len(given) > 1:
        raise UsageError(
            f"condense: keep={keep}, count={count}, max_drop={max_drop}; give one of them and "
            "set the others to null"
        )
    if keep is None:
        if finetune_keep is not None:
            raise UsageError(
                f"condense.finetune_keep={finetune_keep} chooses among condense.keep, which is "
                "null; set it to null too"
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
                f"condense.finetune_keep={tuned}: {fraction} is not in condense.keep={kept}; add "
                "it there, or leave it out here"
            )
    by_fraction = {float(f): str(float(f)) if len(kept) > 1 else "" for f in kept}
    return {name: f for f, name in by_fraction.items()}, tuple(by_fraction[float(f)] for f in tuned)

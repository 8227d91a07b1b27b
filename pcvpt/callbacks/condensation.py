"""Two phases in one fit: train all prompts, condense them, fine-tune those that are kept."""

from typing import Any, cast, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from pcvpt.condensation import DEFAULT_SCORE, Method, Scope, select_prompts
from pcvpt.errors import UsageError
from pcvpt.training.checkpoint import Progress, progress
from pcvpt.training.evaluation import accuracy, choose
from pcvpt.training.module import PromptTuner, require_tuner
from pcvpt.training.phases import Plan, budgets_of
from pcvpt.training.preflight import check_monitor
from pcvpt.training.report import Report


class PromptCondensation(Callback):
    """Ends prompt training, scores, masks the weakest prompts, and starts a fine-tune phase.

    Prompt Condensation, Kim et al., arXiv 2305.17223. The callback knows the prompt bank and
    nothing else of the model. Give one of ``keep``, ``count`` and ``max_drop``; with none of them
    it trains plain VPT for ``prompt_epochs``.

    Several fractions in ``keep`` share one prompt training and one scoring. Each gets its accuracy
    right after masking; those of ``finetune_keep`` are then fine-tuned in turn, each from the same
    trained prompts and head, with the same order of images and the same draws of dropout: as in a
    run with that fraction alone.

    A callback with a method ``on_prompts_trained(trainer, pl_module)`` is told when prompt training
    is over and the scoring begins; one with ``on_prompts_masked(trainer, pl_module, budget)`` of
    each mask while it is on, before any fine-tuning; ``budget`` is "" for the only one, and
    otherwise the fraction, such as "0.3".

    Args:
        keep: fraction of all prompts to keep, in (0, 1], or a list of them.
        score: method of :func:`pcvpt.score_prompts`; the default is the one that chose best on the
            images of ``experiments/real``.
        scope: "global" ranks over all layers, "layer" within each, "stage" within each stage of a
            hierarchical backbone.
        prompt_epochs: length of prompt training; its upper bound under ``patience``.
        finetune_epochs: length of fine-tuning, for each budget.
        finetune_keep: which of ``keep`` to fine-tune, and in which order; None for all. When it is
            empty, there is no second phase, and the run ends with all prompts as they were trained.
        count: number of prompts to keep, instead of a fraction.
        max_drop: keep the fewest prompts with which validation accuracy, before fine-tuning, falls
            by no more than this many percentage points.
        patience: end prompt training after this many epochs without a better ``monitor``.
        monitor: the metric of ``patience``, higher is better.
        rewind: start fine-tuning from the prompts' initial values, not the trained ones.
        seed: of score "random".

    Attributes:
        budgets: what the prompts are condensed to: fractions by name (None for a budget of another
            kind); empty for plain VPT.
        report: what was measured: accuracies in percent, kept prompts per layer, seconds, and
            ``score_agreement``, the rank correlation of the scores by two halves of the data. With
            several budgets, ``report["budgets"]`` has what depends on them, an entry for each.

    Raises:
        UsageError: for numbers out of range, or epochs that leave no second phase.
    """

    def __init__(
        self,
        keep: float | list[float] | None = 0.3,
        score: Method = DEFAULT_SCORE,
        scope: Scope = "global",
        prompt_epochs: int = 100,
        finetune_epochs: int = 20,
        finetune_keep: list[float] | None = None,
        count: int | None = None,
        max_drop: float | None = None,
        patience: int | None = None,
        monitor: str = "val/accuracy",
        rewind: bool = False,
        seed: int = 0,
    ) -> None:
        for what, value, known in (("score", score, Method), ("scope", scope, Scope)):
            if value not in get_args(known):
                choices = ", ".join(get_args(known))
                raise UsageError(f"condense.{what}={value!r}; choose one of {choices}")
        self.budgets, self._tuned = budgets_of(keep, count, max_drop, finetune_keep)
        if prompt_epochs < 1:
            raise UsageError(f"condense.prompt_epochs={prompt_epochs}; give at least 1")
        if self._tuned and finetune_epochs < 1:
            raise UsageError(
                f"condense.finetune_epochs={finetune_epochs} leaves no epoch to fine-tune the kept "
                "prompts; give at least 1, or condense.keep=null for plain VPT"
            )
        if patience is not None and patience < 1:
            raise UsageError(f"condense.patience={patience}; give at least 1 epoch, or null")
        check_monitor(monitor, "condense.monitor")
        self.count, self.max_drop = count, max_drop
        self.score: Method = score
        self.scope: Scope = scope
        self.prompt_epochs, self.finetune_epochs = prompt_epochs, finetune_epochs
        self.patience, self.monitor = patience, monitor
        self.rewind, self.seed = rewind, seed
        self._report = Report()
        self._best = float("-inf")
        self._waited = 0
        self._initial: list[Tensor] | None = None
        # What later fine-tunings start from; None before condensing, and from the last one on.
        self._trained: dict[str, Tensor] | None = None
        self._masks: dict[str, Tensor] = {}
        self._tuning: str | None = None  # the budget whose fine-tuning has begun
        self._value: float | None = None  # of the monitor, if this epoch has measured it
        self._resumed = Progress(0, 0)

    @property
    def report(self) -> dict[str, Any]:
        """What was measured so far."""
        return self._report.figures

    @property
    def plan(self) -> Plan:
        """Which epochs do what."""
        return Plan(self.prompt_epochs, self.finetune_epochs, self._tuned)

    @property
    def total_epochs(self) -> int:
        """Length of the run in epochs, both phases together."""
        return self.plan.total_epochs

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "report": self.report,
            "best": self._best,
            "waited": self._waited,
            "prompt_epochs": self.prompt_epochs,
            "initial": self._initial,
            "finetunings": [list(self._tuned), self.finetune_epochs],
            "trained": self._trained,
            "masks": self._masks,
            "tuning": self._tuning,
            "value": self._value,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._report.figures = state_dict["report"]
        self._best, self._waited = state_dict["best"], state_dict["waited"]
        initial = state_dict["initial"]  # in older checkpoints a tensor
        self._initial = [initial] if isinstance(initial, Tensor) else initial
        ended_early = self.patience is not None and self._waited >= self.patience
        condensed = "seconds_condense" in self.report
        if ended_early or condensed:
            self.prompt_epochs = state_dict["prompt_epochs"]
        if condensed:
            # Older ones have a single budget.
            self.plan.check_resumed(*state_dict.get("finetunings", ([""], self.finetune_epochs)))
        self._trained, self._masks = state_dict.get("trained"), state_dict.get("masks", {})
        self._tuning, self._value = state_dict["tuning"], state_dict.get("value")

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.training:  # the time until now belongs to what is saved; it has the same dict
            phase = require_tuner(pl_module).phase_name
            self._report.clock(f"seconds_{phase}", self.plan.budget(trainer.current_epoch))

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._resumed = progress(checkpoint)
        if int(checkpoint["state_dict"]["phase"]) == 0:  # what was trained already all counts
            begun = self._resumed.epochs + (self._resumed.batches > 0)
            self.prompt_epochs = max(self.prompt_epochs, begun)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            module = require_tuner(pl_module)
            self._resumed = Progress(0, 0)
            self.check_run(trainer, module)
            self._set_plan(trainer, module)

    def check_run(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        """Refuse what this model, or this task, does not allow for.

        Raises:
            UsageError: naming the options of ``condense``.
        """
        if self.budgets and module.model.prompts.keep.numel() == 0:
            raise UsageError("mode 'linear' has no prompts to condense; set condense.keep=null")
        held_out = getattr(getattr(trainer, "datamodule", None), "held_out", True)
        if not held_out and (self.patience is not None or self.max_drop is not None):
            raise UsageError(
                "condense.patience and condense.max_drop choose by val, but data.split puts val "
                "into what is trained on; set the two to null, or train on the training split alone"
            )
        if self.count is not None:  # before training, not after it
            bank = module.model.prompts
            ones = list(torch.ones(bank.keep.shape))
            select_prompts(ones, None, self.scope, count=self.count, stages=bank.stages)

    def _set_plan(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        module.plan = self.plan
        trainer.fit_loop.max_epochs = self.total_epochs

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        self._set_plan(trainer, module)  # again: a resumed run may know of an early end
        self._report.start_clock()
        if self._initial is None:  # always: a resumed run may ask to rewind
            self._initial = module.model.prompts.snapshot()
        if self._resumed.epochs >= self.total_epochs:
            # No epoch is left to train, so that nothing further would be called.
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
            trainer.fit_loop.setup_data()
            self._conclude(trainer, module, self._resumed.epochs)

    # At the end of an epoch the new schedule would be stepped at once, so the phase changes at the
    # start of the next.
    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, epoch = require_tuner(pl_module), trainer.current_epoch
        if self._tuned and epoch >= self.prompt_epochs:
            if self._tuning is None:
                self.condense(trainer, module)
                self._finetune(trainer, module)
            elif self.plan.budget(epoch) != self._tuning:
                self._finish(trainer, module, self._tuning)
                self._finetune(trainer, module)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        self._value = None if trainer.sanity_checking or value is None else float(value)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        # So that checkpoints know it.
        self._report.clock(f"seconds_{module.phase_name}", self.plan.budget(trainer.current_epoch))
        if self.patience is None or module.phase_name != "prompt":
            return
        # A run may have been resumed after the validation of this epoch.
        found = trainer.callback_metrics.get(self.monitor, self._value)
        if found is None:
            raise UsageError(f"condense.monitor={self.monitor!r} is not logged")
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1):
            return  # no new value
        value = float(found)
        improved = value > self._best
        self._best = max(self._best, value)
        self._waited = 0 if improved else self._waited + 1
        if self._waited >= self.patience:
            self.prompt_epochs = trainer.current_epoch + 1
            self._set_plan(trainer, module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._conclude(trainer, require_tuner(pl_module), trainer.current_epoch)

    def _conclude(self, trainer: pl.Trainer, module: PromptTuner, epochs: int) -> None:
        """Measure what the run ends with, after ``epochs``."""
        if self._only_masks and epochs >= self.prompt_epochs:
            self.condense(trainer, module)
            return
        if self._tuning is not None:  # a run may be stopped between two budgets
            self._finish(trainer, module, self._tuning)
        else:
            self._report.clock("seconds_prompt")
            self.report["accuracy_before"] = accuracy(trainer, module)
        self._report.log(trainer)

    @property
    def _only_masks(self) -> bool:
        return bool(self.budgets) and not self._tuned

    def condense(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        """Score, select, and measure each budget right after masking; mask nothing in the end."""
        bank = module.model.prompts
        self._report.clock("seconds_prompt")
        self._tell(trainer, "on_prompts_trained", module)
        self.report["accuracy_before"] = accuracy(trainer, module)
        everything = bank.keep.clone()
        scores, masks, agreement = choose(
            trainer,
            module,
            tuple(self.budgets.values()),
            self.score,
            self.scope,
            count=self.count,
            max_drop=self.max_drop,
            seed=self.seed,
        )
        bank.scores.copy_(torch.stack(scores))
        if agreement is not None:
            self.report["score_agreement"] = agreement
        self.report["prompts"] = bank.keep.numel()
        if len(self.budgets) > 1:
            self.report["budgets"] = [{"keep": fraction} for fraction in self.budgets.values()]
        if self._tuned:
            module.start_finetuning()  # the masked models are of that phase
        for budget, mask in zip(self.budgets, masks, strict=True):
            bank.apply_mask(list(mask))
            self._measure_masked(trainer, module, budget)
        bank.apply_mask(list(everything))
        self._trained = {
            name: value.detach().clone()
            for name, value in module.named_parameters()
            if value.requires_grad
        }
        self._masks = dict(zip(self.budgets, masks.unbind(), strict=True))
        self._report.clock("seconds_condense")
        self._report.log(trainer)

    def _measure_masked(self, trainer: pl.Trainer, module: PromptTuner, budget: str) -> None:
        """Report on the mask that is on, and tell the other callbacks of it."""
        entry, kept = self._report.entry(budget), module.model.prompts.counts()
        if budget:
            entry["prompts_kept"] = sum(kept)
        entry["kept"] = kept
        entry["accuracy_masked"] = accuracy(trainer, module)
        rank_zero_info(
            "Condensed: kept %d of %d prompts; validation accuracy %.2f %% -> %.2f %%",
            *(sum(kept), self.report["prompts"]),
            *(self.report["accuracy_before"], entry["accuracy_masked"]),
        )
        self._report.log_point(trainer, "accuracy_masked", budget)
        self._report.clock("seconds_condense")
        self._tell(trainer, "on_prompts_masked", module, budget)

    def _tell(self, trainer: pl.Trainer, hook: str, *arguments: Any) -> None:
        """Call ``hook`` of the callbacks that have it; what they do counts for no time."""
        for callback in cast(Any, trainer).callbacks:
            tell = getattr(callback, hook, None)
            if tell is not None:
                tell(trainer, *arguments)
        self._report.start_clock()

    def _finetune(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        """Begin this epoch's fine-tuning: from the trained state, with an optimizer of its own."""
        bank, budget = module.model.prompts, self.plan.budget(trainer.current_epoch)
        assert self._trained is not None
        with torch.no_grad():
            for name, value in self._trained.items():
                module.get_parameter(name).copy_(value)
        bank.apply_mask(list(self._masks[budget]))
        if self.rewind and self._initial is not None:
            bank.restore(self._initial)
        if budget == self._tuned[-1]:
            self._trained, self._masks = None, {}
        self._tuning = budget
        module.start_finetuning()
        trainer.strategy.setup_optimizers(trainer)
        self._report.start_clock()

    def _finish(self, trainer: pl.Trainer, module: PromptTuner, budget: str) -> None:
        """Report on the fine-tuning that has ended."""
        self._report.clock("seconds_finetune", budget)
        self._report.entry(budget)["accuracy_finetuned"] = accuracy(trainer, module)
        self._report.log_point(trainer, "accuracy_finetuned", budget)

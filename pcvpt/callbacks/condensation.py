"""Two phases in one fit: train all prompts, condense them, fine-tune those that are kept."""

from typing import Any, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from pcvpt.condensation import DEFAULT_SCORE, Method, Scope, select_prompts
from pcvpt.errors import UsageError
from pcvpt.models.prompt_bank import Form
from pcvpt.training import score_and_mask
from pcvpt.training.callback_protocols import image_data
from pcvpt.training.evaluation import accuracy
from pcvpt.training.module import PromptTuner, require_tuner
from pcvpt.training.phases import Patience, Schedule, budgets_of
from pcvpt.training.report import Report
from pcvpt.training.score_and_mask import Choice, Condensing, Options


class PromptCondensation(Callback):
    """Ends prompt training, scores, masks the weakest prompts, and starts the fine-tuning.

    Prompt Condensation, Kim et al., arXiv 2305.17223. Give one of ``keep``, ``count`` and
    ``max_drop``. With none of them the run is plain VPT for ``prompt_epochs``.

    Several fractions in ``keep`` share one prompt training and one scoring. Accuracy is measured
    right after masking for each; those of ``finetune_keep`` are then fine-tuned in turn, each as in
    a run with that fraction alone: with the same trained prompts and head, and the same draws.

    With ``method="merge"`` the prompts of a block are merged to as many as the budget leaves, by
    :func:`pcvpt.merge_prompts`. They are scored too, for the report and the board.

    Args:
        keep: Fraction of all prompts to keep, in (0, 1], or a list of fractions.
        method: "prune" keeps the prompts with the highest scores (Kim et al.); "merge" merges them
            (this project's method).
        score: Method of :func:`pcvpt.score_prompts`.
        scope: Range of the ranking: "global" ranks the prompts of all layers together, "layer"
            those of each layer, "stage" those of each stage of a hierarchical backbone.
        prompt_epochs: Number of epochs of prompt training. With ``patience``, the largest number.
        finetune_epochs: Number of epochs of fine-tuning, for each budget.
        finetune_keep: Fractions of ``keep`` to fine-tune, in order. Default: all. With an empty
            list there is no second phase, and the run ends with all prompts as they were trained.
        count: Number of prompts to keep, instead of a fraction.
        max_drop: Percentage points of validation accuracy that may be lost before fine-tuning. The
            fewest prompts that lose no more are kept, instead of a fraction.
        patience: Number of validations without a better ``monitor`` after which prompt training
            ends, with its epoch. Default: it does not end early.
        monitor: Metric of ``patience``. Higher is better.
        rewind: Start fine-tuning from the initial values of the prompts, not the trained ones. Not
            for merged prompts.
        finetune_as: What fine-tuning trains: "token", or "key_value", the keys and values
            themselves. Default: for merged prompts "key_value" where the model takes it; else the
            prompts stay what they are.
        seed: Seed of the score "random", and of the sample that merging reads.

    Attributes:
        budgets: Fractions by name (None for ``count`` and ``max_drop``). Empty for plain VPT.

    Raises:
        UsageError: For numbers out of range, or epochs that leave no second phase.
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
        method: Condensing = "prune",
        finetune_as: Form | None = None,
    ) -> None:
        choices = ("score", score, Method), ("scope", scope, Scope), ("method", method, Condensing)
        for what, value, known in (*choices, ("finetune_as", finetune_as or "token", Form)):
            if value not in get_args(known):
                names = ", ".join(get_args(known))
                raise UsageError(f"condense.{what}={value!r}; choose one of {names}")
        if rewind and method == "merge":
            raise UsageError("condense.rewind=true is not for merged prompts; leave it out")
        self.budgets, tuned = budgets_of(keep, count, max_drop, finetune_keep)
        self.schedule = Schedule(prompt_epochs, finetune_epochs, tuned)
        self.options = Options(method, score, scope, count, max_drop, finetune_as, seed)
        self.rewind = rewind
        self._prompt_epochs, self._patience = prompt_epochs, Patience(patience, monitor)
        self._report = Report()  # in a fit, that of the module
        self._reset()

    def _reset(self) -> None:
        """Forget an earlier fit."""
        self.schedule.prompt_epochs = self._prompt_epochs
        self._patience = Patience(self._patience.limit, self._patience.monitor)
        self._initial: list[Tensor] | None = None
        self._trained: dict[str, Tensor] | None = None  # where later fine-tunings start
        self._masks: dict[str, Choice] = {}
        self._tuning: str | None = None  # the budget whose fine-tuning has begun

    @property
    def report(self) -> dict[str, Any]:
        """Figures measured so far, see :class:`~pcvpt.training.report.Report`."""
        return self._report.figures

    def settings(self) -> dict[str, str | float | int | bool]:
        """Return the options for the table of runs; those that are None are left out."""
        fractions = [f"{fraction:g}" for fraction in self.budgets.values() if fraction is not None]
        found: dict[str, Any] = {"keep": ", ".join(fractions) or "null", **vars(self.options)}
        for name in ("prompt_epochs", "finetune_epochs"):
            found[name] = getattr(self.schedule, name)
        left_out = ("finetune_as", "seed")
        return {k: v for k, v in found.items() if v is not None and k not in left_out}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "report": self.report,
            "prompt_epochs": self.schedule.prompt_epochs,
            "initial": self._initial,
            "finetunings": [list(self.schedule.budgets), self.schedule.finetune_epochs],
            "trained": self._trained,
            "masks": self._masks,
            "tuning": self._tuning,
            "best": self._patience.best,
            "waited": self._patience.waited,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._report.figures = state_dict["report"]
        self._patience.best, self._patience.waited = state_dict["best"], state_dict["waited"]
        self._initial, self._tuning = state_dict["initial"], state_dict["tuning"]
        self._trained, self._masks = state_dict["trained"], state_dict["masks"]
        condensed = "seconds_condense" in self.report
        if condensed or self._patience.is_over:
            self.schedule.prompt_epochs = state_dict["prompt_epochs"]
        if condensed:
            self.schedule.check_resumed(*state_dict["finetunings"])

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.training:  # the checkpoint holds the same dict, so that it gets this time too
            self._clock_phase(trainer, require_tuner(pl_module))

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if int(checkpoint["state_dict"]["phase"]) == 0:  # all that was trained already counts
            epochs, batches = require_tuner(pl_module).resumed
            begun = epochs + (batches > 0)
            self.schedule.prompt_epochs = max(self.schedule.prompt_epochs, begun)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            module = require_tuner(pl_module)
            self._reset()
            self._report = module.report
            module.schedule = self.schedule
            trainer.fit_loop.max_epochs = self.schedule.total_epochs

    def check_run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise a UsageError for options that do not fit this model, or these data."""
        if trainer.state.fn != "fit":
            return
        model, options = require_tuner(pl_module).model, self.options
        bank, data = model.prompts, image_data(trainer)
        if self.budgets and bank.keep.numel() == 0:
            raise UsageError("mode 'linear' has no prompts to condense; set condense.keep=null")
        options.finetuned_form(model, self.budgets)
        choose = "condense.patience and condense.max_drop choose by val, but"
        chooses_by_val = self._patience.limit is not None or options.max_drop is not None
        if data is not None and not data.held_out and chooses_by_val:
            raise UsageError(
                f"{choose} data.split puts val into what is trained on; set the two to null"
            )
        if chooses_by_val and trainer.limit_val_batches == 0:
            raise UsageError(f"{choose} limit_val_batches=0 leaves no images of it; leave that out")
        if options.count is not None:  # before training, not after it
            ones = list(torch.ones(bank.keep.shape))
            select_prompts(ones, None, options.scope, count=options.count, stages=bank.stages)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        if trainer.ckpt_path is None and trainer.current_epoch:
            raise UsageError("this Trainer has trained already; make a new one for each fit")
        # A resumed run may know of an early end.
        trainer.fit_loop.max_epochs = total = self.schedule.total_epochs
        self._report.start_clock()
        # Lightning would do it before its first validation, which may come later than ours.
        if trainer.enable_validation:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
        if module.resumed.epochs >= total:
            # No epoch is left to train, so no later hook would be called.
            trainer.fit_loop.setup_data()
            self._conclude(trainer, module, total)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._initial is None:  # always kept, since a resumed run may rewind
            self._initial = require_tuner(pl_module).model.prompts.snapshot()

    # At the end of an epoch the new schedule would be stepped at once, so the phase changes at the
    # start of the next.
    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, epoch = require_tuner(pl_module), trainer.current_epoch
        if not self.schedule.budgets or epoch < self.schedule.prompt_epochs:
            return
        if self._tuning is None:
            self.condense(trainer, module)
        elif self.schedule.budget(epoch) != self._tuning:
            self._finish(trainer, module, self._tuning)
        else:
            return
        self._finetune(trainer, module)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and require_tuner(pl_module).phase_name == "prompt":
            self._patience.note_validation(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        self._clock_phase(trainer, module)  # before the checkpoints of this epoch
        if module.phase_name == "prompt" and self._patience.note_epoch(trainer):
            self.schedule.prompt_epochs = trainer.current_epoch + 1
            trainer.fit_loop.max_epochs = self.schedule.total_epochs

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._conclude(trainer, require_tuner(pl_module), trainer.current_epoch)

    def _clock_phase(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        budget = self.schedule.budget(trainer.current_epoch)
        self._report.clock(f"seconds_{module.phase_name}", budget)

    def _conclude(self, trainer: pl.Trainer, module: PromptTuner, epochs: int) -> None:
        """Measure the model with which the run ends, after ``epochs``."""
        only_masks = self.budgets and not self.schedule.budgets
        if only_masks and epochs >= self.schedule.prompt_epochs:
            self.condense(trainer, module)
            return
        if self._tuning is not None:  # a run may be stopped between two budgets
            self._finish(trainer, module, self._tuning)
        else:
            self._report.clock("seconds_prompt")
            self.report["accuracy_before"] = accuracy(trainer, module)
        self._report.log(trainer)

    def condense(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        """Score, select, and measure each budget right after masking; end with no mask on."""
        self._masks = score_and_mask.condense(trainer, module, self.budgets, self.options)
        trained = ((name, p) for name, p in module.named_parameters() if p.requires_grad)
        self._trained = {name: parameter.detach().clone() for name, parameter in trained}

    def _finetune(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        """Begin the fine-tuning of this epoch: from the trained state, with a new optimizer."""
        budget = self.schedule.budget(trainer.current_epoch)
        assert self._trained is not None
        module.load_state_dict(self._trained, strict=False)
        if self.rewind and self._initial is not None:
            module.model.prompts.restore(self._initial)
        score_and_mask.apply_choice(module.model, self._masks[budget], self.options.finetune_as)
        if budget == self.schedule.budgets[-1]:
            self._trained, self._masks = None, {}
        self._tuning = budget
        module.start_finetuning()
        score_and_mask.follow_parameters(trainer)
        trainer.strategy.setup_optimizers(trainer)
        self._report.start_clock()

    def _finish(self, trainer: pl.Trainer, module: PromptTuner, budget: str) -> None:
        """Report on the fine-tuning that has ended."""
        self._report.clock("seconds_finetune", budget)
        self._report.entry(budget)["accuracy_finetuned"] = accuracy(trainer, module)
        self._report.log_point(trainer, "accuracy_finetuned", budget)

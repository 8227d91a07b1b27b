"""Two phases in one fit: train all prompts, condense them, fine-tune those that are kept."""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from pcvpt.condensation import Method, Scope, largest_cut, score_prompts, select_prompts
from pcvpt.condensation.selection import check_budget, check_drop
from pcvpt.data.sampling import IGNORED
from pcvpt.errors import UsageError
from pcvpt.module import PromptTuner, require_tuner


class PromptCondensation(Callback):
    """Ends prompt training, scores, masks the weakest prompts, and starts a fine-tune phase.

    Prompt Condensation, Kim et al., arXiv 2305.17223. The callback knows the prompt bank and
    nothing else of the model. Give one of ``keep``, ``count`` and ``max_drop``; with none of them
    it trains plain VPT for ``prompt_epochs``.

    Args:
        keep: fraction of all prompts to keep, in (0, 1].
        score: method of :func:`pcvpt.score_prompts`.
        scope: "global" ranks over all layers, "layer" within each, "stage" within each stage of a
            hierarchical backbone.
        prompt_epochs: length of prompt training; its upper bound under ``patience``.
        finetune_epochs: length of fine-tuning.
        count: number of prompts to keep, instead of a fraction.
        max_drop: keep the fewest prompts with which validation accuracy, before fine-tuning, falls
            by no more than this many percentage points.
        patience: end prompt training after this many epochs without a better ``monitor``.
        monitor: the metric of ``patience``, higher is better.
        rewind: start fine-tuning from the prompts' initial values, not the trained ones.
        seed: of score "random".

    Attributes:
        report: what was measured: accuracies in percent, kept prompts per layer, seconds.

    Raises:
        UsageError: for numbers out of range, or epochs that leave no second phase.
    """

    def __init__(
        self,
        keep: float | None = 0.3,
        score: Method = "gate",
        scope: Scope = "global",
        prompt_epochs: int = 100,
        finetune_epochs: int = 20,
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
        budgets = [budget for budget in (keep, count, max_drop) if budget is not None]
        self.condenses = bool(budgets)
        if len(budgets) > 1:
            raise UsageError(
                f"condense: keep={keep}, count={count}, max_drop={max_drop}; give one of them and "
                "set the others to null"
            )
        if max_drop is not None:
            check_drop(max_drop)
        elif budgets:
            check_budget(keep, count)
        if prompt_epochs < 1:
            raise UsageError(f"condense.prompt_epochs={prompt_epochs}; give at least 1")
        if self.condenses and finetune_epochs < 1:
            raise UsageError(
                f"condense.finetune_epochs={finetune_epochs} leaves no epoch to fine-tune the kept "
                "prompts; give at least 1, or condense.keep=null for plain VPT"
            )
        if patience is not None and patience < 1:
            raise UsageError(f"condense.patience={patience}; give at least 1 epoch, or null")
        self.keep, self.count, self.max_drop = keep, count, max_drop
        self.score: Method = score
        self.scope: Scope = scope
        self.prompt_epochs, self.finetune_epochs = prompt_epochs, finetune_epochs
        self.patience, self.monitor = patience, monitor
        self.rewind, self.seed = rewind, seed
        self.report: dict[str, Any] = {}
        self._best = float("-inf")
        self._waited = 0
        self._initial: list[Tensor] | None = None
        self._since = 0.0

    @property
    def total_epochs(self) -> int:
        """Length of the run in epochs, both phases together."""
        return self.prompt_epochs + (self.finetune_epochs if self.condenses else 0)

    @override
    def state_dict(self) -> dict[str, Any]:
        state = {"report": self.report, "best": self._best, "waited": self._waited}
        return {**state, "prompt_epochs": self.prompt_epochs, "initial": self._initial}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.report = state_dict["report"]
        self._best, self._waited = state_dict["best"], state_dict["waited"]
        initial = state_dict["initial"]  # in older checkpoints a tensor
        self._initial = [initial] if isinstance(initial, Tensor) else initial
        ended_early = self.patience is not None and self._waited >= self.patience
        if ended_early or "accuracy_masked" in self.report:
            self.prompt_epochs = state_dict["prompt_epochs"]

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if int(checkpoint["state_dict"]["phase"]) == 0:  # the epochs trained already all count
            self.prompt_epochs = max(self.prompt_epochs, checkpoint["epoch"] + 1)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        module = require_tuner(pl_module)
        require_supported(trainer.strategy)
        if self.condenses and module.model.prompts.keep.numel() == 0:
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
        self._plan(trainer, module)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        self._plan(trainer, module)  # again: a resumed run may know of an early end
        self._since = time.monotonic()
        if self._initial is None:  # always: a resumed run may ask to rewind
            self._initial = module.model.prompts.snapshot()

    def _plan(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        """Derive the run's length from the phases."""
        module.phase_epochs = (self.prompt_epochs, self.total_epochs - self.prompt_epochs)
        trainer.fit_loop.max_epochs = self.total_epochs

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        self._clock(f"seconds_{module.phase_name}")  # so that checkpoints know it
        if self.patience is None or module.phase_name != "prompt":
            return
        if self.monitor not in trainer.callback_metrics:
            raise UsageError(f"condense.monitor={self.monitor!r} is not logged")
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1):
            return  # no new value
        value = float(trainer.callback_metrics[self.monitor])
        improved = value > self._best
        self._best = max(self._best, value)
        self._waited = 0 if improved else self._waited + 1
        if self._waited >= self.patience:
            self.prompt_epochs = trainer.current_epoch + 1
            self._plan(trainer, module)

    # At the end of an epoch the new schedule would be stepped at once, so the phase changes at the
    # start of the next.
    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        due = trainer.current_epoch >= self.prompt_epochs and module.phase_name == "prompt"
        if self.condenses and due:
            self.condense(trainer, module)

    def condense(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        """Score, select, mask and report; then ask the module for the next phase's optimizer."""
        bank = module.model.prompts
        self._clock("seconds_prompt")
        self.report["accuracy_before"] = accuracy(trainer, module)
        scores = score_prompts(
            module.model,
            _on_device(
                trainer, islice(_training_batches(trainer), int(trainer.num_training_batches))
            ),
            self.score,
            seed=self.seed,
            all_reduce=lambda value: cast(Tensor, trainer.strategy.reduce(value, reduce_op="sum")),
        )
        keep = torch.stack(self._select(scores, trainer, module))
        first = trainer.strategy.broadcast(keep, src=0)
        if not torch.equal(first.to(keep.device), keep):
            raise RuntimeError("the processes chose different prompts; please report this")
        bank.scores.copy_(torch.stack(scores))
        bank.apply_mask(list(keep))
        self.report["accuracy_masked"] = accuracy(trainer, module)
        if self.rewind and self._initial is not None:
            bank.restore(self._initial)
        self.report["kept"], self.report["prompts"] = bank.counts(), bank.keep.numel()
        self._clock("seconds_condense")
        module.start_finetuning()
        trainer.strategy.setup_optimizers(trainer)
        self._log(trainer)
        rank_zero_info(
            "Condensed: kept %d of %d prompts; validation accuracy %.2f %% -> %.2f %%",
            sum(bank.counts()),
            bank.keep.numel(),
            self.report["accuracy_before"],
            self.report["accuracy_masked"],
        )

    def _select(
        self, scores: Sequence[Tensor], trainer: pl.Trainer, module: PromptTuner
    ) -> list[Tensor]:
        stages = module.model.prompts.stages
        if self.max_drop is None:
            return select_prompts(scores, self.keep, self.scope, count=self.count, stages=stages)

        def evaluate(keep: list[Tensor]) -> float:
            module.model.prompts.apply_mask(keep)
            return accuracy(trainer, module)

        return largest_cut(scores, evaluate, self.max_drop, self.scope, stages=stages)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        finetuned = module.phase_name == "finetune"
        self._clock("seconds_finetune" if finetuned else "seconds_prompt")
        final = accuracy(trainer, module)
        self.report["accuracy_finetuned" if finetuned else "accuracy_before"] = final
        self._log(trainer)

    def _clock(self, name: str) -> None:
        """Add the time since the last call to ``name``, over all starts of the run."""
        now = time.monotonic()
        self.report[name] = self.report.get(name, 0.0) + now - self._since
        self._since = now

    def _log(self, trainer: pl.Trainer) -> None:
        numbers = {f"condense/{k}": v for k, v in self.report.items() if isinstance(v, float)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)


def require_supported(strategy: Strategy) -> None:
    """Refuse strategies under which a change of phase would fail or go wrong silently."""
    known = isinstance(strategy, (SingleDeviceStrategy, DDPStrategy))
    if not known or isinstance(strategy, DeepSpeedStrategy):
        raise UsageError(f"{type(strategy).__name__} is not supported; use one device or ddp")
    if getattr(strategy, "_ddp_kwargs", {}).get("static_graph"):
        raise UsageError("static_graph=True does not allow a change of phase; leave it out")


def accuracy(trainer: pl.Trainer, module: PromptTuner) -> float:
    """Return the accuracy in percent on the validation split; NaN when there is none.

    Each process evaluates its share, and no image is counted twice; all must call this together.
    """
    training = module.model.training
    module.model.eval()
    sums = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for images, labels, *_ in _on_device(trainer, _validation_batches(trainer)):
            right = module(images).argmax(1) == labels
            counted = labels != IGNORED
            sums += torch.stack([right[counted].sum(), counted.sum()]).cpu()
    module.model.train(training)
    reduced = trainer.strategy.reduce(sums.to(module.device), reduce_op="sum")
    hits, count = cast(Tensor, reduced).tolist()
    return 100 * hits / count if count else float("nan")


def _on_device(
    trainer: pl.Trainer, batches: Iterable[Sequence[Tensor]]
) -> Iterator[Sequence[Tensor]]:
    """Yield the batches as a step would get them: moved, normalised, in the run's precision."""
    for batch in batches:
        converted = trainer.precision_plugin.convert_input(batch)
        yield cast(Sequence[Tensor], trainer.strategy.batch_to_device(converted))


def _training_batches(trainer: pl.Trainer) -> Iterable[Sequence[Tensor]]:
    """Return this process's share of the training split, without augmentation if possible."""
    data = getattr(trainer, "datamodule", None)
    make = getattr(data, "scoring_dataloader", None)
    return cast(Iterable[Sequence[Tensor]], trainer.train_dataloader if make is None else make())


def _validation_batches(trainer: pl.Trainer) -> Iterable[Sequence[Tensor]]:
    data = getattr(trainer, "datamodule", None)
    batches = trainer.val_dataloaders if data is None else data.val_dataloader()
    return cast(Iterable[Sequence[Tensor]], batches or ())

"""Callback that writes the state of the prompts, and of the run, to the loggers."""

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from pcvpt.analysis.prompt_similarity import prompt_norms, prompt_similarity
from pcvpt.callbacks.tensorboard import probe_images
from pcvpt.callbacks.tensorboard.board import (
    SHOW_PICTURES,
    add_picture,
    add_session,
    mark_start,
    observer,
)
from pcvpt.callbacks.tensorboard.hparams import LAYOUT, final_metrics, settings
from pcvpt.callbacks.tensorboard.probe_images import ProbeImages, images_of_epoch, read_images
from pcvpt.callbacks.tensorboard.projector import add_points
from pcvpt.errors import UsageError
from pcvpt.models import PromptBank
from pcvpt.runs.folder import folder_of
from pcvpt.training.callback_protocols import RunWriter
from pcvpt.training.module import PromptTuner, require_tuner
from pcvpt.training.phases import named


@observer
class PromptInspector(RunWriter):
    """Writes the state of the prompts and of the run to the loggers.

    Numbers and settings go to all loggers, pictures to those of TensorBoard, W&B and MLflow.
    Histograms, the projector and the table of runs are for TensorBoard only. Configuration, data,
    cost and predictions are in the page ``report.html`` of the run.

    After each validation, and at the end of each phase, it writes by block the attention to the
    prompts, the norms of the prompts, and the mean norms of their gradients. Once the prompts are
    trained, and again at the end of the run, it writes maps of attention and of similarity, and the
    features of test images (of val, if there is no test split) for the projector; nothing is chosen
    by them. Once the prompts are condensed, it writes the scores, and the prompts that each budget
    keeps. At the end it writes the row of the run in the table of runs.

    The results of the training are bit for bit the same without it. The number of images is bounded
    by that of the training images. If matplotlib fails, a warning says so, and only figures are
    missing. After any other error a warning says so, and nothing more is written.

    Args:
        scores: Write histograms and a map of the scores.
        attention: Write the attention that each block's pooled query gives to the prompts.
        similarity: Write the cosines between prompts.
        norms: Write the norms of the prompts, and of their gradients.
        embeddings: Maximum number of images whose features the projector gets. 0 for none.
        hparams: Write the row of the run in the table of runs.

    Raises:
        UsageError: For a negative number of images.
    """

    def __init__(
        self,
        scores: bool = True,
        attention: bool = True,
        similarity: bool = True,
        norms: bool = True,
        embeddings: int = 256,
        hparams: bool = True,
    ) -> None:
        if embeddings < 0:
            raise UsageError(f"PromptInspector.embeddings={embeddings}; give 0 for none, or more")
        self.scores, self.attention, self.similarity = scores, attention, similarity
        self.norms, self.embeddings, self.hparams = norms, embeddings, hparams
        self._reset()

    def _reset(self) -> None:
        self._loggers: list[Logger] = []  # in the first process
        self._pages: list[Any] = []  # writers of those for TensorBoard
        self._figures: Any = None  # the module, if matplotlib works
        self._wrote_scores = self._wrote_trained = False
        self._probe: ProbeImages | None = None
        self._measured: tuple[int, str] | None = None  # the state in which it was:
        self._found: Tensor | None = None  # the attention to the prompts
        self._gradients = _GradientNorms()

    def __getstate__(self) -> dict[str, Any]:
        # Open files and a module can't be copied, and hooks of a model may reach the run.
        return {**self.__dict__, "_pages": [], "_loggers": [], "_figures": None}

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._reset()
        self._folder = folder_of(trainer)  # all processes must call this
        # Loggers are the same in all processes, but only those of the first write.
        if trainer.is_global_zero:
            self._loggers = trainer.loggers
            boards = (x for x in self._loggers if isinstance(x, TensorBoardLogger))
            self._pages = [board.experiment for board in boards]
        if any(isinstance(x, SHOW_PICTURES) for x in self._loggers):
            try:
                self._figures = import_module("pcvpt.callbacks.tensorboard.figures")
            except Exception as error:  # a broken matplotlib may raise anything
                rank_zero_warn(f"No figures on the board: {error}")

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The page of a run that is resumed in its folder has all that came before.
        saved = trainer.ckpt_path and Path(trainer.ckpt_path).resolve()
        self._begins = not saved or self._folder.resolve() not in saved.parents
        if self._begins:
            for page in self._pages:
                mark_start(page)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        if self.hparams:  # TensorBoard's table of runs needs the final figures, too
            for logger in self._loggers:
                if not isinstance(logger, TensorBoardLogger):
                    logger.log_hyperparams(settings(trainer, module))
        if not self._begins:
            return
        for page in self._pages:
            page.add_custom_scalars(LAYOUT)
        if module.phase_name == "finetune":  # the folder is a new one, without the first phase
            budget = module.schedule.budget(trainer.current_epoch - 1)
            self.on_prompts_masked(trainer, module, budget)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.norms:
            self._gradients.add(require_tuner(pl_module).model.prompts)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, epochs = require_tuner(pl_module), trainer.current_epoch + 1
        validated = epochs % (trainer.check_val_every_n_epoch or 1) == 0
        if not (validated or module.schedule.ends_phase(epochs)):
            return
        # Lightning counts in this way; a run that resumes at the end of this epoch keeps it.
        step, bank = trainer.global_step - 1, module.model.prompts
        if bank.keep.numel() == 0:
            return
        if self.norms:
            self._add_blocks("prompt_norm", prompt_norms(bank).cpu(), step)
            self._add_blocks("prompt_gradient", self._gradients.read_mean(), step)
        found = self._measure_attention(trainer, module)
        self._add_blocks("attention", found if found is None else found.nansum(1), step)
        self._flush()  # so that it can be seen soon, and stays if the run is killed

    def on_prompts_trained(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the state of the model with all of its prompts, before they are scored."""
        self._write_model(trainer, require_tuner(pl_module), "all prompts")
        self._wrote_trained = True

    def on_prompts_masked(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, budget: str
    ) -> None:
        """Write the mask of ``budget``, and the scores when it is the first."""
        module, step = require_tuner(pl_module), trainer.global_step
        bank = module.model.prompts
        keep, scores = bank.keep.cpu(), bank.scores.detach().cpu()
        if (assignment := bank.assignment) is None:
            self._draw(named("prompts/kept", budget), step, lambda figs: figs.kept_figure(keep))
        else:
            merged, left = assignment.cpu(), bank.counts()
            name = named("prompts/merged", budget)
            self._draw(name, step, lambda figs: figs.assignment_figure(merged, left))
        for block, count in enumerate(bank.counts()):  # a curve over blocks, not over steps
            self._log({named("prompts/kept_per_block", budget): count}, block)
        if self.scores and not self._wrote_scores:
            self._draw("prompts/scores", step, lambda figs: figs.score_figure(scores))
            for layer, values in enumerate(scores):
                finite = values[values.isfinite()]  # not those of prompts masked before
                for page in self._pages if len(finite) else ():
                    page.add_histogram(f"scores/block_{layer:02d}", finite, step)
        self._wrote_scores = True

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, step = require_tuner(pl_module), trainer.global_step
        condensed = self._wrote_trained or module.phase_name == "finetune"
        self._write_model(trainer, module, "condensed" if condensed else "at the end")
        if self.hparams:
            metrics = final_metrics(module.report.figures)
            self._log(metrics, step)
            for page in self._pages:
                add_session(page, settings(trainer, module), metrics, step)
        self._flush()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._reset()

    def _measure_attention(self, trainer: pl.Trainer, module: PromptTuner) -> Tensor | None:
        if not self.attention or not any(module.model.prompts.counts()):
            return None
        state = trainer.global_step, module.phase_name
        if state != self._measured:  # pictures show what the curves have just measured
            # Always the same images, so that states can be compared.
            probe = self._probe = self._probe or read_images(trainer, ("val", "train"), 16)
            found = None if probe is None else probe_images.attention(trainer, module, probe)
            self._measured, self._found = state, found
        return self._found

    def _write_model(self, trainer: pl.Trainer, module: PromptTuner, state: str) -> None:
        """Write maps, images and features of the model in the present state, named ``state``."""
        bank, step = module.model.prompts, trainer.global_step
        found = self._measure_attention(trainer, module)
        if found is not None:
            words = "pooled tokens", "Attention that each prompt receives"
            self._draw("prompts/attention", step, lambda figs: figs.received_figure(found, *words))
        if self.similarity and any(bank.counts()):
            shown = *prompt_similarity(bank), sum(bank.counts())
            self._draw("prompts/similarity", step, lambda figs: figs.similarity_figure(*shown))
        total = images_of_epoch(trainer, module) * (trainer.max_epochs or 1)
        count = min(self.embeddings, max(2, total // 200))
        order = ("test", "val", "train")
        points = read_images(trainer, order, count) if self.embeddings and self._pages else None
        if points is not None:
            outputs = probe_images.predict(trainer, module, points.images)
            name = f"features of {points.split}, {state}"
            for page in self._pages:
                add_points(Path(page.log_dir), name, points, outputs, module.class_names)

    def _add_blocks(self, name: str, values: Tensor | None, step: int) -> None:
        blocks = enumerate([] if values is None else values.tolist())
        self._log({f"{name}/block_{n:02d}": v for n, v in blocks if math.isfinite(v)}, step)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        for logger in self._loggers if numbers else ():
            logger.log_metrics(numbers, step)

    def _draw(self, tag: str, step: int, draw: Callable[[Any], Any]) -> None:
        """Add the figure that ``draw`` makes with the module of figures."""
        if self._figures:
            pixels = self._figures.pixels_of(lambda: draw(self._figures))
            for logger in self._loggers:
                add_picture(logger, tag, pixels, step)

    def _flush(self) -> None:
        for logger in self._loggers:
            logger.save()


class _GradientNorms:
    """Mean over steps of the norm of each layer's gradient, which no step waits for."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._steps = 0

    @torch.no_grad()
    def add(self, bank: PromptBank) -> None:
        """Add the present gradients of the prompts."""
        if self._sums is None:
            self._sums = torch.zeros(len(bank.keep), dtype=torch.float32, device=bank.device)
        for layers, values in bank.runs():
            if values.grad is not None:
                self._sums[layers] += values.grad.float().flatten(1).norm(dim=1)
        self._steps += 1

    def read_mean(self) -> Tensor | None:
        """Return the means ``(layers,)`` since the last call, on the CPU; None without a step."""
        sums, steps = self._sums, self._steps
        self._sums, self._steps = None, 0
        return None if sums is None else sums.cpu() / steps

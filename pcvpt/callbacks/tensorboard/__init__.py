"""What TensorBoard shows of a run while it trains."""

import math
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from pcvpt.analysis.cost import multiply_accumulates
from pcvpt.analysis.figures.predictions import confusion_figure, confusions, sample_figure
from pcvpt.analysis.figures.prompt_maps import (
    attention_figure,
    counts_figure,
    kept_figure,
    score_figure,
    similarity_figure,
)
from pcvpt.analysis.figures.style import Figure
from pcvpt.analysis.prompt_similarity import prompt_norms, prompt_similarity
from pcvpt.callbacks.tensorboard.board import Board
from pcvpt.callbacks.tensorboard.gradient_norms import GradientNorms
from pcvpt.callbacks.tensorboard.hparams import LAYOUT, final_metrics, settings
from pcvpt.callbacks.tensorboard.images import take
from pcvpt.callbacks.tensorboard.probe_images import Looks, images_of_epoch, predict
from pcvpt.callbacks.tensorboard.projector import add_points
from pcvpt.callbacks.tensorboard.texts import card, condensed, confused
from pcvpt.errors import UsageError
from pcvpt.runs.folder import CONFIG, folder_of
from pcvpt.training.evaluation import confusion
from pcvpt.training.hooks import class_names, image_data
from pcvpt.training.module import PromptTuner, require_tuner
from pcvpt.training.phases import named


class PromptInspector(Callback):
    """Writes what a run looks like from inside to TensorBoard; other loggers are left alone.

    After validation, and at the end of each phase: attention to the prompts, their norms and the
    norms of their gradients (means over the steps since), by block. Once the prompts are trained,
    and again at the end of the run: maps of attention and of similarity, images with predictions,
    and the features of test images (of val, where there is no test) for the projector, which are
    for looking only: nothing is chosen by them. Once they are condensed: scores, and what each
    budget keeps. At the beginning, configuration, data and cost, and at the end the confusion
    matrix and a row of the table of runs.

    Nothing of this reaches the training, which goes on bit for bit as it would without. The number
    of images looked at is bounded by that of those trained on, so that it takes little of a run's
    time however short this is.

    Args:
        scores: histograms and map of the scores.
        attention: how much of its attention each block's pooled query gives to the prompts.
        similarity: cosines of the prompts.
        norms: of the prompts, and of their gradients.
        images: so many of val with prediction and truth, at most; 0 for none.
        confusion: the confusion matrix of val, at the price of one evaluation.
        embeddings: features of so many images, at most; 0 for none.
        card: configuration, data, cost; and the layout of the page of custom scalars.
        hparams: the run's row in the table of runs.

    Raises:
        UsageError: for a negative number of images.
    """

    def __init__(
        self,
        scores: bool = True,
        attention: bool = True,
        similarity: bool = True,
        norms: bool = True,
        images: int = 16,
        confusion: bool = True,
        embeddings: int = 256,
        card: bool = True,
        hparams: bool = True,
    ) -> None:
        for name, value in {"images": images, "embeddings": embeddings}.items():
            if value < 0:
                raise UsageError(f"PromptInspector.{name}={value}; give 0 for none, or more")
        self.scores, self.attention = scores, attention
        self.similarity, self.norms = similarity, norms
        self.images, self.confusion, self.embeddings = images, confusion, embeddings
        self.card, self.hparams = card, hparams
        self._boards: list[Board] = []
        self._forget()

    def _forget(self) -> None:
        self._scores_shown = self._trained_shown = False
        self._looks = Looks(self.images or 16)
        self._gradients = GradientNorms()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._forget()
        # Loggers are the same in all processes; that of the first alone writes.
        self._shows = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        self._folder = folder_of(trainer)  # all processes must ask
        writers = (
            logger.experiment
            for logger in trainer.loggers
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero
        )
        self._boards = [Board(writer) for writer in writers]

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not _goes_on(trainer, self._folder):
            for board in self._boards:
                board.begin()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        if not self._boards or _goes_on(trainer, self._folder):
            return
        if self.card:
            self._show_card(trainer, module)
        if module.phase_name == "finetune":  # the folder is a new one, without the first phase
            budget = module.schedule.budget(trainer.current_epoch - 1)
            self.on_prompts_masked(trainer, module, budget)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self._boards and self.norms:
            self._gradients.note(require_tuner(pl_module).model.prompts)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch, every = trainer.current_epoch + 1, trainer.check_val_every_n_epoch or 1
        if not self._boards or (
            epoch % every and not require_tuner(pl_module).schedule.ends_phase(epoch)
        ):
            return
        # As Lightning counts here; a run that is resumed from this epoch's end keeps it.
        step, module = trainer.global_step - 1, require_tuner(pl_module)
        bank = module.model.prompts
        if bank.keep.numel() == 0:
            return
        if self.norms:
            self._add_blocks("prompt_norm", prompt_norms(bank).cpu(), step)
            means = self._gradients.read()
            if means is not None:
                self._add_blocks("prompt_gradient", means, step)
        found = self._looks.attention(trainer, module) if self.attention else None
        if found is not None:
            self._add_blocks("attention", found.nansum(1), step)
        for board in self._boards:
            board.flush()  # soon to be seen, and kept if the run is killed

    def on_prompts_trained(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the model with all of its prompts, before they are scored."""
        if self._boards:
            self._show_model(trainer, require_tuner(pl_module), "all prompts")
            self._trained_shown = True

    def on_prompts_masked(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, budget: str
    ) -> None:
        """Show the mask of ``budget``, and the scores when it is the first."""
        if not self._boards:
            return
        module, step = require_tuner(pl_module), trainer.global_step
        bank, report = module.model.prompts, module.report
        keep = bank.keep.cpu()
        self._draw(named("prompts/kept", budget), lambda: kept_figure(keep), step)
        for board in self._boards:  # over blocks, not steps: a curve for each budget
            board.add_curve(named("prompts/kept_per_block", budget), bank.counts())
        if self.scores and not self._scores_shown:
            self._show_scores(bank.scores.detach().cpu(), step)
        self._scores_shown = True
        entries = report.figures.get("budgets", [report.figures])
        text = condensed(report.entry(budget), report.figures, trainer.current_epoch, step)
        for board in self._boards:
            board.add_text(named("run/condensed", budget), text, step)
        if all("kept" in entry for entry in entries):
            kept = {f"{entry.get('keep', '')}": entry["kept"] for entry in entries}
            self._draw("prompts/per_block", lambda: counts_figure(kept, keep.shape[1]), step)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._shows:
            return
        module, step = require_tuner(pl_module), trainer.global_step
        counts = confusion(trainer, module) if self.confusion else None  # all processes must ask
        if not self._boards:
            return
        state = "condensed" if self._trained_shown or module.phase_name == "finetune" else ""
        self._show_model(trainer, module, state or "at the end")
        if counts is not None and counts.sum():
            names = class_names(trainer, len(counts))
            self._draw("val/confusion", lambda: confusion_figure(counts, names), step)
            for board in self._boards:
                board.add_text("run/confused", confused(confusions(counts, names)), step)
        if self.hparams:
            metrics = final_metrics(module.report.figures)
            for board in self._boards:
                board.add_session(settings(trainer, module), metrics, step)
        for board in self._boards:
            board.flush()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._boards = []
        self._forget()

    def _show_card(self, trainer: pl.Trainer, module: PromptTuner) -> None:
        data = image_data(trainer)
        file = self._folder / CONFIG
        text = card(
            file.read_text() if file.is_file() else None,
            module.identity,
            data.describe() if data else None,
            multiply_accumulates(module.model),
            sum(p.numel() for p in module.parameters() if p.requires_grad),
            sum(p.numel() for p in module.parameters() if not p.requires_grad),
        )
        for board in self._boards:
            board.add_layout(LAYOUT)
            board.add_text("run/card", text, trainer.global_step)

    def _show_scores(self, scores: Tensor, step: int) -> None:
        for layer, values in enumerate(scores):
            found = values[values.isfinite()]  # not those that were condensed away before
            if len(found):
                for board in self._boards:
                    board.add_histogram(f"scores/block_{layer:02d}", found, step)
        self._draw("prompts/scores", lambda: score_figure(scores), step)

    def _show_model(self, trainer: pl.Trainer, module: PromptTuner, state: str) -> None:
        """Show what can be seen of the model as it is, called ``state``."""
        bank, step = module.model.prompts, trainer.global_step
        if any(bank.counts()):
            found = self._looks.attention(trainer, module) if self.attention else None
            if found is not None:
                self._draw("prompts/attention", lambda: attention_figure(found), step)
            if self.similarity:
                alike = prompt_similarity(bank)
                self._draw("prompts/similarity", lambda: similarity_figure(*alike), step)
        sample = self._looks.sample(trainer) if self.images else None
        if sample is not None:
            guesses = predict(trainer, module, sample.images).logits.argmax(1).cpu()
            names = class_names(trainer, 1 + int(max(guesses.max(), sample.labels.max())))
            picture = sample.pixels, sample.labels, guesses, names
            self._draw("val/sample", lambda: sample_figure(*picture), step)
        if self.embeddings:
            total = images_of_epoch(trainer) * (trainer.max_epochs or 1)
            self._show_features(trainer, module, state, max(8, min(self.embeddings, total // 200)))

    def _show_features(
        self, trainer: pl.Trainer, module: PromptTuner, state: str, count: int
    ) -> None:
        points = take(trainer, ("test", "val", "train"), count)
        if points is None:
            return
        seen = predict(trainer, module, points.images)
        labels = points.labels.tolist()
        guesses = seen.logits.argmax(1).tolist()
        names = class_names(trainer, 1 + max(*labels, *guesses))
        rows = [
            (names[a], str(a), names[b], "right" if a == b else "wrong")
            for a, b in zip(labels, guesses, strict=True)
        ]
        header = ("class", "number", "predicted", "prediction")
        for board in self._boards:
            name = f"features of {points.split}, {state}"
            add_points(board.folder, name, seen.features, [header, *rows], points.pixels)

    def _add_blocks(self, name: str, values: Tensor, step: int) -> None:
        for layer, value in enumerate(values.tolist()):
            if math.isfinite(value):
                for board in self._boards:
                    board.add_scalar(f"{name}/block_{layer:02d}", value, step)

    def _draw(self, tag: str, make: Callable[[], Figure], step: int) -> None:
        for board in self._boards:
            board.add_figure(tag, make, step)


def _goes_on(trainer: pl.Trainer, folder: Path) -> bool:
    """Say whether the run goes on in the folder of its checkpoint, which has all of it so far."""
    if trainer.ckpt_path is None:
        return False
    return folder.resolve() in Path(trainer.ckpt_path).resolve().parents

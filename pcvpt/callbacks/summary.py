"""Results of a finished run: a closing table, ``results.json``, and the page ``report.html``."""

import copy
import functools
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from typing_extensions import override

from pcvpt.analysis.cost import condensed_macs
from pcvpt.analysis.stages import answer, stage_table
from pcvpt.models import PromptedTransformer
from pcvpt.models.prompt_bank import Form
from pcvpt.runs.atomic import write_json
from pcvpt.runs.environment import describe_device, device_name
from pcvpt.runs.folder import CONFIG, REPORT, RESULTS, folder_of
from pcvpt.training.callback_protocols import RunWriter, image_data
from pcvpt.training.evaluation import answered, validation_batches
from pcvpt.training.module import PromptTuner, require_tuner


class RunSummary(RunWriter):
    """Says what is trained; at the end prints the results and writes their file and page.

    A run that was stopped, or without figures in the report of its module, has neither. If fvcore
    fails, a warning says so, and only the multiply-accumulates are missing. Images per second are
    those of the training steps of all processes since the last start, and of reading their images.
    """

    _since: float | None = None  # since when steps are timed

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Before a merge, or a checkpoint of one, gives the prompts another form.
        if stage == "fit":
            self._form = require_tuner(pl_module).model.prompts.form
            trained = (p.numel() for p in pl_module.parameters() if p.requires_grad)
            self._trained_parameters = sum(trained)
            self._images, self._seconds = 0, 0.0
            self._since = None

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        model, given = module.model, module.made_by["pretrained"]
        weights = given if isinstance(given, str) else "pretrained" if given else "random"
        layers, prompts = model.prompts.keep.shape
        where = f"each of {layers} blocks" if model.has_own_prompts else "front of the first block"
        parameters = sum(parameter.numel() for parameter in model.parameters())
        several = f", {trainer.world_size} processes" * (trainer.world_size > 1)
        for line in (
            f"Backbone: {module.identity['backbone']}, weights: {weights}",
            f"Prompts: {prompts} in {where}, mode {model.mode}" if prompts else "Prompts: none",
            f"Trained: {self._trained_parameters:,} of {parameters:,} parameters",
            f"Device: {device_name(module.device)}, precision {trainer.precision}{several}",
        ):
            rank_zero_info(line)

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self._since = time.monotonic() if self._since is None else self._since

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, n: int
    ) -> None:
        self._images += len(batch[1]) * trainer.world_size
        if trainer.is_last_batch:
            self._pause(pl_module)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause(pl_module)

    def _pause(self, module: pl.LightningModule) -> None:
        if self._since is not None:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize(module.device)
            self._seconds += time.monotonic() - self._since
            self._since = None

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        results = copy.deepcopy(module.report.figures)
        folder = folder_of(trainer)
        if trainer.global_rank or not (results and module.is_over):
            return
        results["prompts"] = module.model.prompts.keep.numel()
        if "budgets" not in results:
            results["kept"] = module.model.prompts.counts()
        _add_cost(module.model, results, self._form)
        data = image_data(trainer)
        if data is not None:
            results["data"] = data.describe()
        results["backbone_fingerprint"] = module.backbone_fingerprint
        results["trained_parameters"] = self._trained_parameters
        if self._seconds:
            results["images_per_second"] = self._images / self._seconds
        results |= describe_device(module.device)
        write_json(folder / RESULTS, results)
        console = Console(width=None if sys.stdout.isatty() else 100)
        console.print(stage_table([folder]))
        console.print(answer([folder]), highlight=False)
        notes = [f"Run folder: {folder}", _write_page(trainer, module, folder)]
        if data is not None and data.splits.test and (folder / CONFIG).is_file():
            notes.append(f"Next: pcvpt test {folder}")
        for note in notes:
            console.print(note, soft_wrap=True, highlight=False)


def _write_page(trainer: pl.Trainer, module: PromptTuner, folder: Path) -> str:
    """Write ``report.html``, with images of val that this process reads; return what to tell."""
    page, drawn, data = folder / REPORT, "", image_data(trainer)
    try:
        from pcvpt.analysis.report_page import draw_model, write_report  # needs matplotlib

        if data is not None and data.splits.val and min(trainer.num_val_batches, default=0):
            read, known = validation_batches(trainer), answered(trainer, module)
            shown = ((images, *of) for (images, *_), of in zip(read, known, strict=True))
            with trainer.precision_plugin.forward_context():
                drawn = draw_model(module.model, shown, module.class_names, data.preprocessing)
        write_report(page, [folder], drawn)
    except Exception as error:  # the run itself is done
        return f"No report: {type(error).__name__}: {error}"
    return f"Report: {page}"


def _add_cost(model: PromptedTransformer, results: dict[str, Any], form: Form) -> None:
    """Add the multiply-accumulates of one image to ``results``, and to each of its budgets.

    All prompts had ``form``; those that are left have that of their budget.
    """
    every = [model.prompts.keep.shape[1]] * len(model.prompts.keep)
    counted = functools.cache(lambda kept, *how: condensed_macs(model, kept, *how))
    try:
        results["macs_all_prompts_as_tokens"] = counted(tuple(every), "tokens", "token")
        results["macs_without_prompts"] = counted((0,) * len(every), "tokens", "token")
        results["macs_all_prompts"] = counted(tuple(every), model.execution, form)
        # With several budgets, the model at the end of the run is but one of them.
        for entry in results.get("budgets", [results]):
            left = entry.get("form", model.prompts.form)
            entry["macs"] = counted(tuple(entry["kept"]), model.execution, left)
    except Exception as error:  # a broken fvcore may raise anything, and the run is done
        rank_zero_warn(f"No cost in the results: {error}")

"""Results of a finished run: a closing table, and the file ``results.json``."""

import copy
import sys
import time
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from pcvpt.analysis.cost import condensed_macs, million
from pcvpt.models import PromptedTransformer
from pcvpt.models.prompt_bank import Form
from pcvpt.runs.atomic import write_json
from pcvpt.runs.environment import describe_device, device_name
from pcvpt.runs.folder import RESULTS, folder_of
from pcvpt.training.callback_protocols import RunWriter, image_data
from pcvpt.training.module import require_tuner

_ROWS = (
    ("all prompts trained", "accuracy_before", "seconds_prompt"),
    ("condensed", "accuracy_masked", "seconds_condense"),
    ("fine-tuned", "accuracy_finetuned", "seconds_finetune"),
)


class RunSummary(RunWriter):
    """Says what is trained, prints the closing table of a fit, and writes ``results.json``.

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
        console.print(closing_table(results))
        for note in (*closing_notes(results), f"Run folder: {folder}"):
            console.print(note, soft_wrap=True, highlight=False)


def _add_cost(model: PromptedTransformer, results: dict[str, Any], form: Form) -> None:
    """Add the multiply-accumulates of one image to ``results``, and to each of its budgets.

    All prompts had ``form``; those that are left have that of their budget.
    """
    every = [model.prompts.keep.shape[1]] * len(model.prompts.keep)
    try:
        results["macs_all_prompts_as_tokens"] = condensed_macs(model, every, "tokens")
        results["macs_all_prompts"] = condensed_macs(model, every, model.execution, form)
        # With several budgets, the model at the end of the run is but one of them.
        for entry in results.get("budgets", [results]):
            own = model, entry["kept"], model.execution, entry.get("form")
            entry["macs"] = condensed_macs(*own)
    except Exception as error:  # a broken fvcore may raise anything, and the run is done
        rank_zero_warn(f"No cost in the results: {error}")


def closing_table(results: dict[str, Any]) -> Table:
    """Return a table of ``results``, with a row for each stage, or for each of several budgets."""
    held_out = results.get("data", {}).get("held_out", True)
    trained_on = "" if held_out else " (which were trained on, so that only the test counts)"
    part = f"{results['validated']} of " if "validated" in results else ""
    table = Table(title=f"Result on {part}the validation images{trained_on}", title_justify="left")
    rows = list(_budget_rows(results) if "budgets" in results else _stage_rows(results))
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if number else "left")
    for cells in rows[1:]:
        table.add_row(*cells)
    return table


def _stage_rows(results: dict[str, Any]) -> Iterator[list[str]]:
    yield ["stage", "accuracy", "seconds"]
    for stage, accuracy, seconds in _ROWS:
        if accuracy in results:
            name = stage if results["prompts"] else "head trained"
            yield [name, f"{results[accuracy]:.2f} %", f"{results[seconds]:.1f}"]


def _budget_rows(results: dict[str, Any]) -> Iterator[list[str]]:
    def percent(entry: dict[str, Any], name: str) -> str:
        return f"{entry[name]:.2f} %" if name in entry else ""

    yield ["prompts", "not fine-tuned", "fine-tuned", "seconds", "multiply-accumulates"]
    trained = f"{results['seconds_prompt']:.1f}"
    cost = million(results["macs_all_prompts"]) if "macs_all_prompts" in results else ""
    yield [f"all {results['prompts']}", percent(results, "accuracy_before"), "", trained, cost]
    for entry in results["budgets"]:
        yield [
            f"{entry['prompts_kept']} ({entry['keep']:g})",
            percent(entry, "accuracy_masked"),
            percent(entry, "accuracy_finetuned"),
            f"{entry['seconds_finetune']:.1f}" if "seconds_finetune" in entry else "",
            million(entry["macs"]) if "macs" in entry else "",
        ]


def closing_notes(results: dict[str, Any]) -> list[str]:
    """Return the lines below the table: kept prompts and cost; none for a linear probe."""
    if not results["prompts"]:
        return []
    if "budgets" in results:
        notes = [f"scored and masked in {results['seconds_condense']:.1f} seconds"]
    else:
        kept = results["kept"]
        per_block = " ".join(map(str, kept))
        notes = [f"prompts kept: {sum(kept)} of {results['prompts']}; per block {per_block}"]
    if "macs_all_prompts" in results:
        tokens = million(results["macs_all_prompts_as_tokens"])
        as_run = million(results["macs_all_prompts"])
        cost = f"{tokens} with all prompts as tokens, {as_run} as run"
        at_end = f", {million(results['macs'])} at the end" if "macs" in results else ""
        notes.append(f"multiply-accumulates per image: {cost}{at_end}")
    return notes

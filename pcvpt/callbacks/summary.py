"""What a finished run says: a closing table, and the same as ``results.json``."""

import sys
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from pcvpt.analysis.cost import condensed_cost, multiply_accumulates, tokens_cost
from pcvpt.models import PromptedTransformer
from pcvpt.runs.atomic import write_json
from pcvpt.runs.folder import RESULTS, folder_of
from pcvpt.training.hooks import image_data
from pcvpt.training.module import require_tuner

_ROWS = (
    ("all prompts trained", "accuracy_before", "seconds_prompt"),
    ("condensed", "accuracy_masked", "seconds_condense"),
    ("fine-tuned", "accuracy_finetuned", "seconds_finetune"),
)


class RunSummary(Callback):
    """Prints the closing table of a fit and writes ``results.json`` into the run folder.

    The figures are those that a callback with an attribute ``report`` has measured.
    """

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        results = dict(module.report.figures)
        folder = folder_of(trainer)
        if trainer.global_rank or not results:
            return
        model, budgets = module.model, results.get("budgets")
        layers, prompts = model.prompts.keep.shape
        results["prompts"] = layers * prompts
        if budgets is None:
            results["kept"] = model.prompts.counts()
            results["macs"] = multiply_accumulates(model)
        else:  # what the run ends with is but one of them
            results["budgets"] = [
                {**entry, "macs": _macs(model, entry["kept"])} for entry in budgets
            ]
        results["macs_all_prompts"] = _macs(model, [prompts] * layers)
        results["macs_all_prompts_as_tokens"] = tokens_cost(model).macs
        data = image_data(trainer)
        if data is not None:
            results["data"] = data.describe()
        results["backbone_fingerprint"] = module.backbone_fingerprint
        results["trained_parameters"] = sum(
            p.numel() for p in pl_module.parameters() if p.requires_grad
        )
        write_json(folder / RESULTS, results)
        console = Console(width=None if sys.stdout.isatty() else 100)
        console.print(closing_table(results))
        for note in (*closing_notes(results), f"Run folder: {folder}"):
            console.print(note, soft_wrap=True, highlight=False)


def closing_table(results: dict[str, Any]) -> Table:
    """Lay out ``results`` for the terminal: a row for each stage, or for each budget of several."""
    held_out = results.get("data", {}).get("held_out", True)
    trained_on = "" if held_out else " (which were trained on: the test is what counts)"
    table = Table(title=f"Result on the validation images{trained_on}", title_justify="left")
    if "budgets" in results:
        table.add_column("prompts")
        for column in ("not fine-tuned", "fine-tuned", "seconds", "multiply-accumulates"):
            table.add_column(column, justify="right")
        for cells in _budget_rows(results):
            table.add_row(*cells)
        return table
    table.add_column("stage")
    table.add_column("accuracy", justify="right")
    table.add_column("seconds", justify="right")
    for stage, accuracy, seconds in _ROWS:
        if accuracy in results:
            stage = stage if results["prompts"] else "head trained"
            table.add_row(stage, f"{results[accuracy]:.2f} %", f"{results[seconds]:.1f}")
    return table


def _budget_rows(results: dict[str, Any]) -> Iterator[list[str]]:
    def percent(entry: dict[str, Any], name: str) -> str:
        return f"{entry[name]:.2f} %" if name in entry else ""

    trained = f"{results['seconds_prompt']:.1f}"
    cost = _million(results["macs_all_prompts"])
    yield [f"all {results['prompts']}", percent(results, "accuracy_before"), "", trained, cost]
    for entry in results["budgets"]:
        yield [
            f"{entry['prompts_kept']} ({entry['keep']:g})",
            percent(entry, "accuracy_masked"),
            percent(entry, "accuracy_finetuned"),
            f"{entry['seconds_finetune']:.1f}" if "seconds_finetune" in entry else "",
            _million(entry["macs"]),
        ]


def closing_notes(results: dict[str, Any]) -> list[str]:
    """Return what stands below the table: prompts kept and cost; nothing for a linear probe."""
    prompts = results["prompts"]
    if not prompts:
        return []
    tokens, whole = (
        _million(results[name]) for name in ("macs_all_prompts_as_tokens", "macs_all_prompts")
    )
    if "budgets" in results:
        return [
            f"scored and masked in {results['seconds_condense']:.1f} seconds",
            f"multiply-accumulates per image: {tokens} with all prompts as tokens, {whole} as run",
        ]
    kept = results["kept"]
    return [
        f"prompts kept: {sum(kept)} of {prompts}; per block {' '.join(map(str, kept))}",
        f"multiply-accumulates per image: {tokens} with all prompts as tokens, {whole} as run, "
        f"{_million(results['macs'])} at the end",
    ]


def _macs(model: PromptedTransformer, kept: list[int]) -> int:
    return condensed_cost(model, kept, model.execution).macs


def _million(macs: int) -> str:
    return f"{macs / 1e6:,.1f} M" if macs < 1e9 else f"{macs / 1e9:,.2f} G"

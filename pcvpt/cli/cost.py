"""``pcvpt cost``: what a configuration costs to compute and to train, without data or weights."""

import argparse
import csv
import inspect
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pcvpt.analysis.cost import Cost, bare_cost, condensed_cost, prefix_cost, tokens_cost
from pcvpt.callbacks import PromptCondensation
from pcvpt.cli.config_errors import parse
from pcvpt.cli.config_files import expand
from pcvpt.condensation import Scope, select_prompts
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer, create_model

_DESCRIPTION = """Print the cost of a configuration: multiply-accumulates for one image (attention
products included), trained parameters and frozen parameters. There is a row for the bare backbone,
for all prompts as tokens, for all prompts as keys and values (prefix), and for the prompts that
condensation keeps. No data and no weights are read. All options of `pcvpt fit` are accepted, such
as --model.num_prompts 50."""
_NOTES = {
    "once per batch": "once per batch: part of the sum that a batch needs once, not for each image",
    "condensed": "condensed: kept prompts are spread evenly here; training decides which are kept",
}


def main(arguments: Sequence[str]) -> int:
    """Run ``pcvpt cost``; return the exit status.

    Raises:
        UsageError: Mistake in the arguments.
    """
    own, options = _parser().parse_known_args(arguments or ["--help"])
    if own.csv is not None and own.csv.exists():
        raise UsageError(f"{own.csv} exists; remove it, or name another file by --csv")
    options, name = expand(options)
    if name is None:
        raise UsageError("give --config FILE, as for `pcvpt fit`")
    config = parse("fit", options).as_dict()
    classes = own.num_classes or _classes_of(config)
    model = _build(config["model"], classes)
    condense = PromptCondensation(**config["condense"])  # refuses what `pcvpt fit` would
    costs = measure(model, tuple(condense.budgets.values()), condense.count, condense.scope)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(cost_table(costs, title=f"{config['model']['backbone']}, {classes} classes"))
    if own.per_block:
        console.print(block_table(costs))
    notes = {
        "once per batch": any(cost.shared for cost in costs.values()),
        "condensed": len(costs) > 3,
    }
    for name, holds in notes.items():
        if holds:
            console.print(_NOTES[name], highlight=False, soft_wrap=True)
    if own.csv is not None:
        write_csv(own.csv, costs)
        console.print(f"Written: {own.csv}", highlight=False, soft_wrap=True)
    return 0


def measure(
    model: PromptedTransformer,
    budgets: Sequence[float | None] = (),
    count: int | None = None,
    scope: Scope = "global",
) -> dict[str, Cost]:
    """Return the cost of each form of ``model`` by name, the bare backbone first.

    Args:
        model: Model on any device.
        budgets: Fraction of prompts that each condensed form keeps. None keeps ``count``.
        count: Number of prompts to keep, as for :func:`pcvpt.select_prompts`.
        scope: Whether ``count`` is for each layer or for the model.
    """
    bank = model.prompts
    costs = {"bare": bare_cost(model)}
    if bank.keep.numel():
        costs["tokens"] = tokens_cost(model)
    costs["prefix"] = prefix_cost(
        model
    )  # also for a linear probe: it spares rows of the last block
    layers, prompts = bank.keep.shape
    evenly = [-torch.arange(prompts).float()] * layers  # the first of each layer, then the next
    for fraction in budgets if bank.keep.numel() else ():
        if fraction is None and count is None:
            continue  # only training decides how many
        masks = select_prompts(evenly, fraction, scope, count=count, stages=bank.stages)
        kept = sum(int(mask.sum()) for mask in masks)
        costs[f"condensed ({kept} of {bank.keep.numel()})"] = condensed_cost(model, masks)
    return costs


def cost_table(costs: dict[str, Cost], title: str = "") -> Table:
    """Lay out ``costs`` for the terminal, one row for each form."""
    table = Table(title=title, title_justify="left")
    table.add_column("prompts")
    for column in (
        *("multiply-accumulates", "of bare", "once per batch"),
        *("trained parameters", "frozen parameters"),
    ):
        table.add_column(column, justify="right")
    bare = costs["bare"].macs
    for name, cost in costs.items():
        table.add_row(
            name,
            _million(cost.macs),
            f"{cost.macs / bare:.1%}",
            _million(cost.shared) if cost.shared else "-",
            f"{cost.trained:,}",
            f"{cost.frozen:,}",
        )
    return table


def block_table(costs: dict[str, Cost]) -> Table:
    """Lay out the costs of each block, and of the rest."""
    title = "Per block: multiply-accumulates, trained parameters"
    table = Table(title=title, title_justify="left")
    table.add_column("block")
    table.add_column("frozen parameters", justify="right")
    for name in costs:
        table.add_column(name, justify="right")
    for blocks in zip(*(cost.blocks for cost in costs.values()), strict=True):
        cells = [f"{_million(b.macs)}, {b.trained:,}" for b in blocks]
        table.add_row(blocks[0].name, f"{blocks[0].frozen:,}", *cells)
    bare = costs["bare"]
    rest = []
    for cost in costs.values():
        macs = cost.macs - sum(block.macs for block in cost.blocks)
        trained = cost.trained - sum(block.trained for block in cost.blocks)
        rest.append(f"{_million(macs)}, {trained:,}")
    frozen = bare.frozen - sum(block.frozen for block in bare.blocks)
    table.add_row("the rest, with the head", f"{frozen:,}", *rest)
    return table


def write_csv(target: Path, costs: dict[str, Cost]) -> None:
    """Write one line for each form (block "all"), and one for each of its blocks.

    Raises:
        UsageError: when the file can't be written.
    """
    columns = ("form", "block", "prompts", "multiply_accumulates", "once_per_batch", "ratio")
    bare = costs["bare"].macs
    try:
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, "trained_parameters", "frozen_parameters"])
            for name, cost in costs.items():
                form, ratio = name.split()[0], f"{cost.macs / bare:.6f}"
                whole = (form, "all", cost.prompts, cost.macs, cost.shared, ratio)
                writer.writerow([*whole, cost.trained, cost.frozen])
                for b in cost.blocks:
                    writer.writerow([form, b.name, b.prompts, b.macs, "", "", b.trained, b.frozen])
    except OSError as error:
        raise UsageError(f"{target}: not writable ({error.strerror}); choose another") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcvpt cost",
        usage="pcvpt cost --config FILE [--config FILE ...] [--num_classes N] [--per_block] "
        "[--csv FILE] [options of `pcvpt fit`]",
        description=_DESCRIPTION,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--num_classes", type=int, help="Number of classes. Default: that of the task."
    )
    parser.add_argument(
        "--per_block", action="store_true", help="Print a second table with a row per block."
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="CSV file to write as well.")
    return parser


def _classes_of(config: dict[str, Any]) -> int:
    """Return the number of classes that the task's class states, without its data."""
    path = (config.get("data") or {}).get("class_path")
    task = pkgutil.resolve_name(path) if path else None
    row, names = getattr(task, "row", None), getattr(task, "CLASS_NAMES", None)
    if row is not None:
        return int(row.num_classes)
    if names is not None:
        return len(names)
    what = (
        f"{path.rpartition('.')[2]} knows its classes only from the images" if path else "no task"
    )
    raise UsageError(f"{what}; give --num_classes")


def _build(section: dict[str, Any], classes: int) -> PromptedTransformer:
    """Build the model of the section ``model`` without weights, on the meta device."""
    size = section.get("image_size")
    further = {**({"img_size": size} if size else {}), **(section.get("timm_kwargs") or {})}
    # The other options of the section are for training.
    takes = inspect.signature(create_model).parameters.keys() - {"num_classes", "pretrained"}
    options = {name: value for name, value in section.items() if name in takes}
    with torch.device("meta"):
        return create_model(num_classes=classes, pretrained=False, **{**options, **further})


def _million(macs: int) -> str:
    return f"{macs / 1e6:,.1f} M" if macs < 1e9 else f"{macs / 1e9:,.2f} G"

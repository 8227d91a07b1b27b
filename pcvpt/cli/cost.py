"""``pcvpt cost``: what a configuration costs to compute and to train, without data or weights."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from pcvpt.analysis.cost import (
    BlockCost,
    Cost,
    bare_cost,
    condensed_cost,
    million,
    prefix_cost,
    tokens_cost,
)
from pcvpt.analysis.tables import Row, print_table
from pcvpt.callbacks import PromptCondensation
from pcvpt.cli.config_errors import parse
from pcvpt.cli.config_files import expand
from pcvpt.condensation import select_prompts
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer
from pcvpt.runs.atomic import write_csv
from pcvpt.training.module import PromptTuner

_DESCRIPTION = """Print the cost of a configuration: multiply-accumulates for one image (attention
products included), trained parameters and frozen parameters. There is a row for the bare backbone,
for all prompts as tokens, for all prompts as keys and values (prefix), and for the prompts that
condensation keeps. No data and no weights are read. All options of `pcvpt fit` are accepted, such
as --model.num_prompts 50."""
_TITLES = {
    "deep": "VPT-Deep",
    "prefix": "visual prefix tuning",
    "shallow": "VPT-Shallow",
    "linear": "linear probe",
}


def main(arguments: Sequence[str]) -> int:
    """Run ``pcvpt cost``; return the exit status. A UsageError tells a mistake in the arguments."""
    own, options = _parser().parse_known_args(arguments or ["--help"])
    if own.csv is not None and own.csv.exists():
        raise UsageError(f"{own.csv} exists; remove it, or name another file by --csv")
    options, name = expand(options)
    if name is None:
        raise UsageError("give --config FILE, as for `pcvpt fit`")
    config = parse("fit", options).as_dict()
    classes = own.num_classes or classes_of(config["data"])
    condense = PromptCondensation(**config["condense"])  # refuses what `pcvpt fit` would
    section = {**config["model"], "pretrained": False, "compile": False}
    with torch.device("meta"):
        model = PromptTuner(classes, **section).model
    costs = measure(model, condense)
    title = f"{config['model']['backbone']}, {_TITLES[model.mode]}, {classes} classes"
    print_table(cost_table(costs), title)
    if own.per_block:
        print_table(block_table(costs), "Per block: multiply-accumulates, trained parameters")
    if any(cost.shared for cost in costs.values()):
        print("once per batch: part of the sum that a batch needs once, not for each image")
    if len(costs) > 3:
        print("condensed: kept prompts are spread evenly here; training decides which are kept")
    if "key_value" in (
        model.prompts.form,
        condense.options.finetuned_form(model, condense.budgets),
    ):
        print(_numbers(model))
    if own.csv is not None:
        write_csv(own.csv, list(csv_rows(costs)))
        print(f"Written: {own.csv}")
    return 0


def measure(model: PromptedTransformer, condense: PromptCondensation) -> dict[str, Cost]:
    """Return the cost of each form of ``model`` by name, the bare backbone first.

    The condensed forms have the budgets of ``condense``. The model may be on any device.
    """
    bank = model.prompts
    costs = {"bare": bare_cost(model)}
    if bank.keep.numel():
        costs["tokens"] = tokens_cost(model)
    # Also for a linear probe: it spares rows of the last block.
    costs["prefix"] = prefix_cost(model)
    layers, prompts = bank.keep.shape
    evenly = [-torch.arange(prompts).float()] * layers  # the first of each layer, then the next
    form, options = condense.options.finetuned_form(model, condense.budgets), condense.options
    for fraction in condense.budgets.values() if bank.keep.numel() else ():
        if fraction is None and options.count is None:
            continue  # only training decides how many
        masks = select_prompts(
            evenly, fraction, options.scope, count=options.count, stages=bank.stages
        )
        kept = sum(int(mask.sum()) for mask in masks)
        name = f"condensed ({kept} of {bank.keep.numel()})"
        costs[name] = condensed_cost(model, masks, form=form)
    return costs


def cost_table(costs: Mapping[str, Cost]) -> list[Row]:
    """Return a row for each form."""
    return [
        {
            "prompts": name,
            "multiply-accumulates": million(cost.macs),
            "of bare": f"{cost.macs / costs['bare'].macs:.1%}",
            "once per batch": million(cost.shared) if cost.shared else "-",
            "trained parameters": cost.trained,
            "frozen parameters": cost.frozen,
        }
        for name, cost in costs.items()
    ]


def block_table(costs: Mapping[str, Cost]) -> list[Row]:
    """Return a row for each block, and for the rest."""
    blocks = [(*cost.blocks, _rest(cost)) for cost in costs.values()]
    return [
        {"block": row[0].name, "frozen parameters": row[0].frozen}
        | {n: f"{million(b.macs)}, {b.trained:,}" for n, b in zip(costs, row, strict=True)}
        for row in zip(*blocks, strict=True)
    ]


def csv_rows(costs: Mapping[str, Cost]) -> Iterator[Row]:
    """Yield a row for each form (block "all"), and for each of its blocks."""
    for name, cost in costs.items():
        own = {"once_per_batch": cost.shared, "ratio": f"{cost.macs / costs['bare'].macs:.6f}"}
        parts: list[tuple[str, Cost | BlockCost, Row]] = [("all", cost, own)]
        for block, part, further in [*parts, *((b.name, b, {}) for b in cost.blocks)]:
            yield {
                "form": name.split()[0],
                "block": block,
                "prompts": part.prompts,
                "multiply_accumulates": part.macs,
                **further,
                "trained_parameters": part.trained,
                "frozen_parameters": part.frozen,
            }


def _numbers(model: PromptedTransformer) -> str:
    """Return how many numbers a prompt has as a key and a value, and as a token."""
    keys = [2 * heads * width for heads, width in model.prompts.heads]
    sizes = (
        "/".join(f"{n:,}" for n in dict.fromkeys(part)) for part in (keys, model.widths(model))
    )
    return "numbers of a prompt: {} as a key and a value, {} as a token".format(*sizes)


def _rest(cost: Cost) -> BlockCost:
    """Return what of ``cost`` belongs to no block."""
    parts = "macs", "prompts", "trained", "frozen"
    rest = (getattr(cost, n) - sum(getattr(block, n) for block in cost.blocks) for n in parts)
    return BlockCost("the rest, with the head", *rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcvpt cost",
        usage="pcvpt cost --config FILE [--config FILE ...] [--num_classes N] [--per_block] "
        "[--csv FILE] [options of `pcvpt fit`]",
        description=_DESCRIPTION,
        allow_abbrev=False,
        exit_on_error=False,
    )
    add = parser.add_argument
    add("--num_classes", type=int, help="Number of classes. Default: that of the task.")
    add("--per_block", action="store_true", help="Print a second table with a row per block.")
    add("--csv", type=Path, metavar="FILE", help="CSV file to write as well.")
    return parser


def task_of(data: Mapping[str, Any]) -> Any:
    """Return the class of a section ``data`` of a configuration, one of pcvpt.data by its name."""
    name = data["class_path"]
    return resolve_name(name if "." in name else f"pcvpt.data.{name}")


def classes_of(data: Mapping[str, Any] | None) -> int:
    """Return the number of classes that the task's class states, without its data."""
    if data is None:
        raise UsageError("no task; give --num_classes")
    task = task_of(data)
    if hasattr(task, "row"):
        return int(task.row.num_classes)
    if hasattr(task, "CLASS_NAMES"):
        return len(task.CLASS_NAMES)
    raise UsageError(f"{task.__name__} knows its classes only from the images; give --num_classes")

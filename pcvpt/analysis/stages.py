"""The stages of a finished run in a table, and its answer in words."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from rich.table import Table

from pcvpt.analysis.cost import million
from pcvpt.analysis.tables import table_of
from pcvpt.runs.folder import RESULTS, read_json, title_of

TEMPLATES = Environment(
    loader=PackageLoader("pcvpt.analysis"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters["million"] = million
_CONDENSED = (
    ("condensed", "masked", "masked", "condense"),
    ("fine-tuned", "finetuned", "finetune", "finetune"),
)


def stages(run: Path, only: str | None = None) -> list[dict[str, str]]:
    """Return a row for each stage of ``run``: prompts, accuracies, cost and time as text.

    ``only`` is the name of the budget whose stages are returned. Default: all budgets.
    """
    results, rows = read_json(run / RESULTS), []
    total, images = results["prompts"], results.get("data", {}).get("images", {}).get("val", 0)
    name = "all prompts trained" if total else "head trained"
    first = "accuracy_before", "prompt", "macs_all_prompts", "seconds_prompt", total
    found = [(name, results, *first)]
    for entry in results.get("budgets", [results]):
        budget = f"_{float(entry['keep'])}" if "keep" in entry else ""
        if only not in (None, budget[1:]):
            continue
        kept = sum(entry.get("kept", ()))
        found += [
            (title, entry, f"accuracy_{key}", f"{file}{budget}", "macs", f"seconds_{clock}", kept)
            for title, key, file, clock in _CONDENSED
        ]
    for stage, entry, accuracy, checkpoint, macs, seconds, prompts in found:
        if accuracy not in entry:
            continue
        files = (run / f"test-{checkpoint}{end}.json" for end in ("-best", "-last", ""))
        test = next((read_json(file)["test/accuracy"] for file in files if file.is_file()), None)
        rows.append(
            {
                "stage": stage,
                "prompts": f"{prompts:,}",
                "val accuracy": f"{entry[accuracy]:.2f} %",
                "95 % interval": "" if "validated" in results else wilson(entry[accuracy], images),
                "test accuracy": "" if test is None else f"{100 * test:.2f} %",
                "MACs per image": million(entry[macs]) if macs in entry else "",
                "seconds": f"{entry[seconds]:.1f}" if seconds in entry else "",
            }
        )
    return rows


def validated(results: Mapping[str, Any]) -> str:
    """Return on which images a run with these ``results`` was validated, in words."""
    held_out = results.get("data", {}).get("held_out", True)
    trained_on = "" if held_out else " (which were trained on, so that only the test counts)"
    part = f"{results['validated']} of " if "validated" in results else ""
    return f"{part}the validation images{trained_on}"


def wilson(percent: float, images: int) -> str:
    """Return Wilson's 95 % interval (1927) of an accuracy on ``images``; "" for no images."""
    if not images or math.isnan(percent):
        return ""
    share, z = percent / 100, 1.959964
    middle = share + z * z / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    low, high = (100 * (middle + side) / (1 + z * z / images) for side in (-half, half))
    return f"{low:.1f} to {high:.1f}"


def answer(runs: Sequence[Path]) -> str:
    """Return what came out of ``runs``, in plain words."""
    told = TEMPLATES.get_template("answer.jinja").render(
        results=[read_json(r / RESULTS) for r in runs]
    )
    return " ".join(told.split())


def stage_table(runs: Sequence[Path]) -> Table:
    """Return the stages of ``runs`` as a table of the terminal."""
    named = {run: {"run": title_of(run)} if len(runs) > 1 else {} for run in runs}
    rows = [named[run] | row for run in runs for row in stages(run)]
    shown = [name for name in rows[0] if any(row[name] for row in rows)]
    title = f"Result on {validated(read_json(runs[0] / RESULTS))}"
    best = "test accuracy: of the epoch that is best on val" * any(
        file.stem.endswith("-best") for run in runs for file in run.glob("test-*-best.json")
    )
    return table_of([{name: row[name] for name in shown} for row in rows], title, best)

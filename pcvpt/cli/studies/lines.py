"""The lines of a table: what the runs of a study, or any runs, measured on test images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pcvpt.cli.resume import leaves
from pcvpt.cli.studies.engine import val_accuracy
from pcvpt.cli.studies.study import NO_MATTER, STAGES, Cell, Study
from pcvpt.cli.studies.workers import stages_of
from pcvpt.cli.yaml_file import read_mapping
from pcvpt.errors import UsageError
from pcvpt.runs.folder import (
    CONFIG,
    RESULTS,
    entry_of,
    find_run,
    finished_run,
    read_json,
    require_finished,
    tests_of,
    title_of,
)

BySeed = dict[int, float]
_STAGES = {
    "trained": "all prompts",
    "condensed": "right after condensing",
    "finetuned": "fine-tuned",
}
_SEEDS = ("seed_everything", "ckpt_path")
_ACCURACY = "test accuracy"  # the column of runs of any data


class Line(NamedTuple):
    """One row of a table: a method at one stage.

    Attributes:
        method: Name of the method, with what varies.
        stage: Stage and budget.
        series: Both without what varies and the budget: its line in a figure.
        found: Test accuracies in percent by config and seed.
        seeds: Number of seeds that the study asks for.
        prompts: Number of prompts left in the run of each seed, by config.
        macs: Multiply-accumulates of one image in the run of each seed, by config.
    """

    method: str
    stage: str
    series: str
    found: dict[str, BySeed]
    seeds: int
    prompts: dict[str, list[int]]
    macs: dict[str, list[float]]


def lines_of(study: Study, pool: Path) -> list[Line]:
    """Return the rows of ``study``, with what its runs in ``pool`` have so far."""
    accuracy = val_accuracy(pool)
    rows: dict[tuple[str, str], Line] = {}
    order: list[tuple[str, str]] = []
    for cell in study.cells:
        found = _tests(cell, pool, accuracy)
        stages = [stage for stage, _ in found] or [(stage, "") for stage in cell.stages]
        for stage in dict.fromkeys(stages):
            key = cell.name, _stage(*stage)
            if key not in rows:
                condensed = any(name != "trained" for name, _ in stages)
                series = cell.method + f", {_STAGES[stage[0]]}" * condensed
                rows[key] = Line(*key, series, {}, len(cell.seeds), {}, {})
                order.append(key)
        for (stage, seed), (value, prompts, macs) in found.items():
            line = rows[cell.name, _stage(*stage)]
            line.found.setdefault(cell.config, {})[seed] = value
            line.prompts.setdefault(cell.config, []).append(prompts)
            if macs is not None:
                line.macs.setdefault(cell.config, []).append(macs)
    # A method whose results have shown its stages needs no empty row for those it was planned with.
    shown = {method for (method, _), line in rows.items() if line.found}
    return [rows[key] for key in order if rows[key].found or key[0] not in shown]


def lines_of_runs(paths: Sequence[str]) -> list[Line]:
    """Return the rows of finished runs; those that differ in nothing but the seed share a row.

    Raises:
        UsageError: Folder without a run, or run that is not finished or not tested.
    """
    rows: dict[tuple[str, str], Line] = {}
    for path in paths:
        run = require_finished(find_run(path))
        config = read_mapping(run / CONFIG)
        seed = int(config.get("seed_everything") or 0)
        settings = [(k, v) for k, v in leaves(config) if not k.startswith((*NO_MATTER, *_SEEDS))]
        found = _tests_of(run, STAGES)
        if not found:
            raise UsageError(f"{run}: not tested yet; `pcvpt test {run}` tests it")
        for (stage, budget), (value, prompts, macs) in found.items():
            line = rows.setdefault(
                (json.dumps(settings, default=str), _stage(stage, budget)),
                Line(title_of(run), _stage(stage, budget), title_of(run), {}, 1, {}, {}),
            )
            if seed in line.found.get(_ACCURACY, {}):
                raise UsageError(
                    f"{run}: a run with the same configuration and seed is there twice"
                )
            line.found.setdefault(_ACCURACY, {})[seed] = value
            line.prompts.setdefault(_ACCURACY, []).append(prompts)
            line.macs.setdefault(_ACCURACY, []).extend([] if macs is None else [macs])
    return [line._replace(seeds=len(line.found[_ACCURACY])) for line in rows.values()]


def _stage(stage: str, budget: str) -> str:
    return _STAGES[stage] + (f", keep {budget}" if budget else "")


def _tests(
    cell: Cell, pool: Path, accuracy: Any
) -> dict[tuple[tuple[str, str], int], tuple[float, int, float | None]]:
    """Return test accuracy, prompts and cost by stage and seed. A linear probe has no prompts."""
    found = {}
    for seed, run in cell.runs(accuracy).items():
        folder = finished_run(pool / run.key)
        for stage, values in _tests_of(folder, cell.stages).items() if folder else ():
            found[stage, seed] = values
    return found


def _tests_of(
    run: Path, stages: tuple[str, ...]
) -> dict[tuple[str, str], tuple[float, int, float | None]]:
    results, found = read_json(run / RESULTS), {}
    in_order = sorted(
        stages_of(run, stages).items(),
        key=lambda one: (STAGES.index(one[1][0]), -float(one[1][1] or 0)),
    )
    for checkpoint, (stage, budget) in in_order:
        for file in tests_of(checkpoint)[:1]:  # a second look at test images does not count
            value = 100 * read_json(file)["test/accuracy"]
            found[stage, budget] = (value, *_cost(results, stage, budget))
    return found


def _cost(results: dict[str, Any], stage: str, budget: str) -> tuple[int, float | None]:
    if stage == "trained":
        return results["prompts"], results.get("macs_all_prompts")
    entry = entry_of(results, budget)
    return sum(entry["kept"]), entry.get("macs")

"""The lines of a table: what the runs of a study, or any runs, measured on test images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pcvpt.cli.resume import leaves
from pcvpt.cli.studies.engine import val_accuracy
from pcvpt.cli.studies.study import NO_MATTER, STAGES, Study
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

_STAGES = {
    "trained": "all prompts",
    "condensed": "right after condensing",
    "finetuned": "fine-tuned",
}
_SEEDS = ("seed_everything", "ckpt_path")
_ACCURACY = "test accuracy"  # the column of runs of any data


class Outcome(NamedTuple):
    """What a run has at one stage."""

    accuracy: float  # on test images, in percent
    prompts: int  # that are left; 0 in a linear probe
    macs: float | None  # multiply-accumulates of one image; None where they were not counted


class Line(NamedTuple):
    """One row of a table: a method at one stage."""

    method: str  # its name, with what varies
    stage: str  # and the budget
    series: str  # both without what varies and the budget: its line in a figure
    seeds: int  # number of those that the study asks for
    found: dict[str, dict[int, Outcome]]  # by config and seed


def lines_of(study: Study, pool: Path) -> list[Line]:
    """Return the rows of ``study``, with what its runs in ``pool`` have so far."""
    accuracy = val_accuracy(pool)
    rows: dict[tuple[str, str], Line] = {}
    for cell in study.cells:
        found: dict[tuple[str, str], dict[int, Outcome]] = {}
        for seed, run in cell.runs(accuracy).items():
            folder = finished_run(pool / run.key)
            for stage, tested in _tests_of(folder, cell.stages).items() if folder else ():
                found.setdefault(stage, {})[seed] = tested
        stages = list(found) or [(stage, "") for stage in cell.stages]
        condensed = any(name != "trained" for name, _ in stages)
        for stage in stages:
            key = cell.name, _stage(*stage)
            series = cell.method + f", {_STAGES[stage[0]]}" * condensed
            line = rows.setdefault(key, Line(*key, series, len(cell.seeds), {}))
            if stage in found:
                line.found[cell.config] = found[stage]
    # A method whose results have shown its stages needs no empty row for those it was planned with.
    shown = {line.method for line in rows.values() if line.found}
    return [line for line in rows.values() if line.found or line.method not in shown]


def lines_of_runs(paths: Sequence[str]) -> list[Line]:
    """Return the rows of finished runs; those that differ in nothing but the seed share a row.

    A UsageError refuses a folder without a run, and a run that is not finished or not tested.
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
        for of, tested in found.items():
            stage, title = _stage(*of), title_of(run)
            key = json.dumps(settings, default=str), stage
            line = rows.setdefault(key, Line(title, stage, title, 1, {_ACCURACY: {}}))
            if seed in line.found[_ACCURACY]:
                raise UsageError(f"{run}: its configuration and seed are there twice; leave it out")
            line.found[_ACCURACY][seed] = tested
    return [line._replace(seeds=len(line.found[_ACCURACY])) for line in rows.values()]


def _stage(stage: str, budget: str) -> str:
    return _STAGES[stage] + (f", keep {budget}" if budget else "")


def _tests_of(run: Path, stages: tuple[str, ...]) -> dict[tuple[str, str], Outcome]:
    """Return what ``run`` has, by stage and budget: the most prompts first."""
    results, found = read_json(run / RESULTS), {}
    in_order = sorted(
        stages_of(run, stages).items(),
        key=lambda one: (STAGES.index(one[1][0]), -float(one[1][1] or 0)),
    )
    for checkpoint, (stage, budget) in in_order:
        for file in tests_of(checkpoint)[:1]:  # a second look at test images does not count
            prompts, macs = results["prompts"], results.get("macs_all_prompts")
            if stage != "trained":
                entry = entry_of(results, budget)
                prompts, macs = sum(entry["kept"]), entry.get("macs")
            accuracy = 100 * read_json(file)["test/accuracy"]
            found[stage, budget] = Outcome(accuracy, prompts, macs)
    return found

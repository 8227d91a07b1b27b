"""Accuracy by number of kept prompts: masked, fine-tuned, trained from scratch.

Each RUN is a finished run with prompts. Its prompts are condensed to each fraction of --keep by
the score of the run, and fine-tuned as in the run; a few fractions are also trained from scratch.
Each is a fit in `curve_runs` beside the figure. A finished fit is not run again, so the analysis
may be interrupted and repeated. Runs that differ in their seeds alone form one group, with a band.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from pcvpt.analysis.curve import (
    DROP,
    check_fractions,
    lines_of,
    smallest_that_holds,
    whole_number,
)
from pcvpt.analysis.figures.curve import Group, curve_figure
from pcvpt.analysis.layer_removal import accuracies
from pcvpt.cli.analyze.curve_runs import (
    Accuracy,
    FinishedRun,
    fits_of,
    open_finished,
    points_of,
)
from pcvpt.cli.analyze.fits import run_fits
from pcvpt.cli.analyze.results import Results
from pcvpt.cli.analyze.trained_model import ALL_PROMPTS, find_device, open_model
from pcvpt.cli.resume import differences
from pcvpt.cli.tables import Row, print_table
from pcvpt.cli.titles import MODE_TITLES
from pcvpt.errors import UsageError

_KEEP = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
_SCRATCH = (0.1, 0.3)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    add = parser.add_argument
    text = "Fractions of the prompts to keep. Default: 0.05 0.1 0.2 0.3 0.5 0.7 1.0."
    add("--keep", type=float, nargs="+", default=list(_KEEP), metavar="F", help=text)
    add("--no-finetune", action="store_true", help="Mask only; do not fine-tune.")
    text = "Condense to a random choice of the same size, too."
    add("--random", action="store_true", help=text)
    text = (
        "Fractions of the prompts to train from scratch, each a whole number of prompts. "
        "Default: those of 0.1 0.3 that are whole numbers."
    )
    add("--scratch", type=float, nargs="+", metavar="F", help=text)
    add("--no-scratch", action="store_true", help="Train none from scratch.")
    text = "Split on which accuracy is measured. Default: val."
    add("--split", default="val", choices=("val", "test"), help=text)
    text = (
        "Number of fits at a time, which share the cores. Default: the number of cores, at most 4; "
        "with a GPU 1."
    )
    add("--jobs", type=int, metavar="N", help=text)


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Run the fits that are missing, and write tables and figure."""
    keep = check_fractions(options.keep, "keep")
    if options.checkpoint is not None:
        raise UsageError("curve starts from the end of prompt training; leave out --checkpoint")
    if options.scratch is not None and options.no_scratch:
        raise UsageError("--scratch and --no-scratch; give one of them")
    device = find_device(options.device)
    runs = [open_finished(path) for path in options.runs]
    if len({one.name for one in runs}) < len(runs):
        names = ", ".join(one.name for one in runs)
        raise UsageError(f"runs need different names, but these are {names}; rename folders")
    scratch = {one.name: _from_scratch(one, options) for one in runs}
    _check_split(runs, options.split, further)
    results = Results(options.output or runs[0].folder / "analysis", "curve", options.overwrite)
    folder, finetune = results.folder / "curve_runs", not options.no_finetune
    fits = {
        one.name: fits_of(one, folder, keep, finetune, options.random, scratch[one.name], further)
        for one in runs
    }
    everything = [one.fit for several in fits.values() for one in several]
    cores = torch.get_num_threads()
    jobs = options.jobs or (1 if device.type == "cuda" else min(cores, 4))
    jobs = min(jobs, len(everything))
    run_fits(everything, jobs, threads=max(1, cores // jobs))
    accuracy = _accuracy_on(options.split, device, further)
    full = {
        one.name: accuracy(one.folder, ALL_PROMPTS, one.results["accuracy_before"]) for one in runs
    }
    points = {
        one.name: list(points_of(one, fits[one.name], full[one.name], accuracy)) for one in runs
    }
    groups = []
    for name, members in _grouped(runs).items():
        joint = [point for one in members for point in points[one.name]]
        mean = sum(full[one.name] for one in members) / len(members)
        groups.append(Group(name, mean, lines_of(joint), len(members)))
    rows = [
        {**point._asdict(), "accuracy_all_prompts": full[name], "split": options.split}
        for name, several in points.items()
        for point in several
    ]
    results.write_table(rows)
    rows = [
        {
            **{"group": group.name, "series": series, "keep": keep, "mean": found.mean},
            **{"deviation": found.deviation, "runs": found.values, "all_prompts": group.full},
        }
        for group in groups
        for series, line in group.lines.items()
        for keep, found in line.items()
    ]
    results.write_table(rows, "summary")
    title = (
        f"Accuracy on {options.split} images against kept prompts; prompts chosen by "
        f"{' or '.join(sorted({str(one.config['condense']['score']) for one in runs}))}"
        + "; mean ± deviation over seeds"
        * any(group.runs > 1 for group in groups)
    )
    results.write_figure(curve_figure(groups, title))
    for group in groups:
        title = f"{group.name}: all prompts {group.full:.2f} % on {options.split}"
        print_table(_short_rows(group), title)
        for series, line in group.lines.items():
            holds = smallest_that_holds(line, group.full)
            where = "at no fraction measured" if holds is None else f"from {100 * holds:g} % on"
            print(f"{series}: within {DROP:g} point of all prompts {where}")


def _from_scratch(run: FinishedRun, options: argparse.Namespace) -> dict[float, int]:
    """Return the fractions to train from scratch, with their numbers of prompts per layer."""
    fractions = [] if options.no_scratch else options.scratch or _SCRATCH
    per_layer, found = int(run.config["model"]["num_prompts"]), {}
    for fraction in check_fractions(fractions, "scratch"):
        count = whole_number(fraction, per_layer)
        refused = f"{fraction:g} of {per_layer} prompts per layer is no whole number of at least 1"
        if count is not None:
            found[fraction] = count
        elif options.scratch is not None:
            raise UsageError(f"--scratch: {run.name}: {refused}; give other fractions")
        else:
            print(f"{run.name}: {refused}; not trained from scratch")
    return found


def _check_split(runs: Sequence[FinishedRun], split: str, further: Sequence[str]) -> None:
    for run in runs:
        if split == "test":
            open_model(run.folder, ALL_PROMPTS, further).require_images(split)
        elif not run.results.get("data", {}).get("held_out", True):
            raise UsageError(f"{run.folder}: val is part of what was trained on; give --split test")
        elif math.isnan(float(run.results["accuracy_before"])):
            raise UsageError(f"{run.folder}: no val images; give --split test")
        elif "validated" in run.results:
            print(f"{run.name}: accuracies are those of {run.results['validated']} of val")


def _accuracy_on(split: str, device: torch.device, further: Sequence[str]) -> Accuracy:
    """Return a function that gives the accuracy of a checkpoint on ``split``."""

    def accuracy(run: Path, checkpoint: str, on_val: float) -> float:
        if split == "val":
            return float(on_val)
        trained = open_model(run, checkpoint, further)
        model = trained.model.to(device)
        value, _ = accuracies(model, [model.prompts.keep.clone()], trained.batches(split))
        return value

    return accuracy


def _grouped(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Return groups of runs that differ in their seeds alone, by a name."""
    groups: list[list[FinishedRun]] = []
    for run in runs:
        group = next((group for group in groups if _alike(group[0], run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    modes = [MODE_TITLES[group[0].config["model"]["mode"]] for group in groups]
    distinct = len(set(modes)) == len(modes)
    return {
        (f"{mode}, {one.results['prompts']} prompts" if distinct else f"{mode}, {one.name}")
        + f", {len(group)} runs" * (len(group) > 1): group
        for mode, group in zip(modes, groups, strict=True)
        for one in group[:1]
    }


def _alike(one: FinishedRun, other: FinishedRun) -> bool:
    """Return whether the runs differ in their seeds alone."""
    keys = (text.partition("=")[0] for text in differences(one.config, other.config))
    return all(key.split(".")[-1] in ("seed", "seed_everything") for key in keys)


def _short_rows(group: Group) -> list[Row]:
    """Return a row for each fraction, with the accuracy of each series."""
    rows: dict[float, dict[str, object]] = {}
    for series, line in group.lines.items():
        for keep, found in line.items():
            spread = "" if found.values == 1 else f" ± {found.deviation:.2f}"
            row = rows.setdefault(keep, {"kept": f"{100 * keep:g} %"})
            row[series] = f"{found.mean:.2f}{spread}"
    return [rows[keep] for keep in sorted(rows)]

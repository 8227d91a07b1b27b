"""Accuracy against kept prompts: masked, fine-tuned, and trained from scratch with as few.

Each RUN is a finished one with prompts. Its prompts are condensed to every fraction of --keep by
its own score, and fine-tuned as the run does it; a few fractions are also trained from scratch.
These are fits, in `curve_runs` beside the figure; what is there already is not run again, so that
the analysis may be interrupted. Runs that differ in their seeds alone are one group, with bands.
"""

import argparse
import math
from collections.abc import Sequence

import yaml

from pcvpt.analysis.curve import (
    DROP,
    Point,
    bands,
    check_fractions,
    prompts_from_scratch,
    smallest_that_holds,
)
from pcvpt.analysis.figures.curve import Group, curve_figure
from pcvpt.cli.analyze.curve_runs import Reading, Source, Wanted, fits_of, open_source
from pcvpt.cli.analyze.fits import cores, run_fits
from pcvpt.cli.analyze.output import Output, Row, as_table
from pcvpt.cli.analyze.trained_model import open_subject
from pcvpt.cli.resume import differences
from pcvpt.errors import UsageError

_KEEP = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
_SCRATCH = (0.1, 0.3)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    parser.add_argument(
        "--keep", type=float, nargs="+", default=list(_KEEP), metavar="F",
        help="fractions of the prompts; default: 0.05 0.1 0.2 0.3 0.5 0.7 1.0",
    )  # fmt: skip
    parser.add_argument("--no-finetune", action="store_true", help="masked only")
    parser.add_argument(
        "--random", action="store_true", help="a random choice of as many prompts, too"
    )
    parser.add_argument(
        "--scratch", type=float, nargs="+", metavar="F",
        help="fractions to train from scratch, each a whole number of prompts; default: those of "
        "0.1 0.3 that are. All prompts are the run itself",
    )  # fmt: skip
    parser.add_argument("--no-scratch", action="store_true", help="train none from scratch")
    parser.add_argument(
        "--split", default="val", choices=("val", "test"), help="of the accuracy; default: val"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="fits at a time, which share the cores; default: one for each core, up to 4; with a "
        "GPU 1",
    )  # fmt: skip


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Fit what is missing, and write tables and figure.

    Raises:
        UsageError: for runs that are not finished or have no prompts, fractions out of their range,
            and a fit that failed.
    """
    keep = check_fractions(options.keep, "keep")
    if options.checkpoint is not None:
        raise UsageError("curve starts from the end of prompt training; leave out --checkpoint")
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}; give at least 1")
    if options.scratch is not None and options.no_scratch:
        raise UsageError("--scratch and --no-scratch; give one of them")
    sources = [open_source(path) for path in options.runs]
    if len({source.name for source in sources}) < len(sources):
        names = ", ".join(source.name for source in sources)
        raise UsageError(f"runs need different names, but these are {names}; rename folders")
    wanted = {source.name: _wanted(source, options, keep, further) for source in sources}
    _check_split(sources, options.split, further)
    output = Output(options.output or sources[0].run / "analysis", "curve", options.overwrite)
    place = output.folder / "curve_runs"
    fits = {source.name: fits_of(source, wanted[source.name], place) for source in sources}
    everything = [one.fit for planned in fits.values() for one in planned]
    jobs = options.jobs or (1 if options.device.type == "cuda" else min(cores(), 4))
    jobs = min(jobs, len(everything))
    run_fits(everything, jobs, threads=max(1, cores() // jobs))
    points: dict[str, list[Point]] = {}
    full: dict[str, float] = {}
    for source in sources:
        reading = Reading(source, options.split, further, options.device)
        full[source.name] = reading.full()
        points[source.name] = list(reading.points(fits[source.name], full[source.name]))
    groups = []
    for name, members in _grouped(sources).items():
        joint = [point for source in members for point in points[source.name]]
        mean = sum(full[source.name] for source in members) / len(members)
        groups.append(Group(name, mean, bands(joint), len(members)))
    output.table(
        [
            {**point._asdict(), "accuracy_all_prompts": full[name], "split": options.split}
            for name, several in points.items()
            for point in several
        ]
    )
    output.table([row for group in groups for row in _summary(group)], "summary")
    title = (
        f"Accuracy on {options.split} images against kept prompts; prompts chosen by "
        f"{' or '.join(sorted({str(s.config['condense']['score']) for s in sources}))}"
        + "; mean ± deviation over seeds"
        * any(group.runs > 1 for group in groups)
    )
    output.figure(curve_figure(groups, title))
    for group in groups:
        all_of = f"{group.name}: all prompts {group.full:.2f} % on {options.split}"
        output.show(as_table(_shown(group), all_of))
        for series, line in group.lines.items():
            holds = smallest_that_holds(line, group.full)
            said = "at no fraction measured" if holds is None else f"from {100 * holds:g} % on"
            print(f"{series}: within {DROP:g} point of all prompts {said}")


def _wanted(
    source: Source, options: argparse.Namespace, keep: list[float], further: Sequence[str]
) -> Wanted:
    scratch: list[float] = []
    if options.scratch is not None:
        scratch = check_fractions(options.scratch, "scratch")
    elif not options.no_scratch:
        whole, refused = prompts_from_scratch(_SCRATCH, source.per_layer)
        scratch = list(whole)
        for fraction in refused:
            print(
                f"{source.name}: {fraction:g} of {source.per_layer} prompts per layer is no whole "
                "number; not trained from scratch"
            )
    return Wanted(keep, not options.no_finetune, options.random, scratch, tuple(further))


def _check_split(sources: Sequence[Source], split: str, further: Sequence[str]) -> None:
    for source in sources:
        if split == "val" and not source.results.get("data", {}).get("held_out", True):
            raise UsageError(f"{source.run}: val is part of what was trained on; give --split test")
        if split == "val" and math.isnan(float(source.results["accuracy_before"])):
            raise UsageError(f"{source.run}: no val images; give --split test")
        if split == "test":
            open_subject(source.run, "prompt-last", further).require_images(split)


def _grouped(sources: Sequence[Source]) -> dict[str, list[Source]]:
    """Put together the runs that differ in their seeds alone, by a name."""
    groups: list[list[Source]] = []
    for source in sources:
        own = _without_seeds(source.config)
        for group in groups:
            if not differences(_without_seeds(group[0].config), own):
                group.append(source)
                break
        else:
            groups.append([source])
    modes = [f"VPT-{group[0].mode.capitalize()}" for group in groups]
    distinct = len(set(modes)) == len(modes)
    return {
        (f"{mode}, {group[0].prompts} prompts" if distinct else f"{mode}, {group[0].name}")
        + f", {len(group)} runs" * (len(group) > 1): group
        for mode, group in zip(modes, groups, strict=True)
    }


def _without_seeds(config: dict[str, object]) -> dict[str, object]:
    plain: dict[str, object] = yaml.safe_load(yaml.safe_dump(config))
    stack = [plain]
    while stack:
        section = stack.pop()
        for key in ("seed", "seed_everything"):
            section.pop(key, None)
        stack += [value for value in section.values() if isinstance(value, dict)]
    return plain


def _summary(group: Group) -> list[Row]:
    return [
        {"group": group.name, "series": series, **band._asdict(), "all_prompts": group.full}
        for series, line in group.lines.items()
        for band in line
    ]


def _shown(group: Group) -> list[Row]:
    fractions = sorted({band.keep for line in group.lines.values() for band in line})
    rows: list[Row] = []
    for fraction in fractions:
        row: dict[str, object] = {"kept": f"{100 * fraction:g} %"}
        for series, line in group.lines.items():
            band = next((band for band in line if band.keep == fraction), None)
            if band is not None:
                spread = "" if band.runs == 1 else f" ± {band.deviation:.2f}"
                row[series] = f"{band.mean:.2f}{spread}"
        rows.append(row)
    return rows

"""The commands ``pcvpt sweep`` and ``pcvpt table``."""

import argparse
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pcvpt.analysis.tables import Row, print_table
from pcvpt.cli.config_files import expand
from pcvpt.cli.resume import leaves
from pcvpt.cli.studies.engine import spent_on, sweep, val_accuracy
from pcvpt.cli.studies.lines import Line, lines_of, lines_of_runs
from pcvpt.cli.studies.live import Display
from pcvpt.cli.studies.study import Run, Study, argument, told
from pcvpt.cli.studies.study_file import read_study
from pcvpt.cli.studies.table import at_equal_accuracy, differences, series_of, table, written
from pcvpt.cli.studies.workers import OneByOne, OnRay
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import write_text
from pcvpt.runs.folder import read_json

_SWEEP = """Run all fits that the table of a study needs, and test them. What is done already is not
run again, and what was interrupted goes on, so the same command continues a study. With the extra
pcvpt[sweep] runs go side by side, by Ray."""
_TABLE = """Print the table of a study: test accuracy in percent, mean ± standard deviation over
seeds, with what is missing. Test images were not looked at before a choice was made."""
_COMPARE = """Print a table of finished runs: test accuracy in percent. Runs that differ in nothing
but the seed share a row, with mean ± standard deviation."""


def main(arguments: Sequence[str]) -> int:
    """Run ``pcvpt sweep``; return 1 if a run failed. A UsageError tells a mistake in the study."""
    parser = _parser("sweep", _SWEEP)
    add = parser.add_argument
    add("--plan", action="store_true", help="Only print the runs and their number.")
    add("--address", help="Address of a Ray cluster. Default: Ray starts on this machine.")
    add("--cpus_per_run", type=float, default=1, help="Cores that Ray gives each run.")
    add("--gpus_per_run", type=float, default=0, help="GPUs of each run, such as 0.33 to share.")
    add("--tries", type=int, default=2, help="How often a run that fails is started.")
    text = "Run one after another, without Ray. Default: only where Ray is not installed."
    add("--sequential", action="store_true", help=text)
    options = parser.parse_args(arguments or ["--help"])
    if options.tries < 1 or options.cpus_per_run <= 0 or options.gpus_per_run < 0:
        raise UsageError("--tries is at least 1, --cpus_per_run above 0, --gpus_per_run at least 0")
    study = read_study(options.study)
    runs = options.output_dir.expanduser()
    pool, folder = runs / "by_configuration", runs / "studies" / study.name
    unfitted = _print_plan(study, pool)
    check_options(study)
    if options.plan:
        _print_estimate(unfitted)
        return 0
    _tell_changes(study, folder / "study.json")
    workers, display = _workers(options), Display(pool)
    with display.live:
        failures = sweep(study, pool, workers, options.tries, display.tell, display.state)
    _link(study, pool, folder / "runs")
    rows = table(study.configs, lines_of(study, pool), published=False)
    print_table(rows, title=_title(study))
    _record(study, pool, rows, folder / "RESULTS.md")
    if failures:
        print(f"{len(failures)} runs failed; the same command tries them again")
    return int(bool(failures))


def _workers(options: argparse.Namespace) -> OneByOne | OnRay:
    if options.sequential or find_spec("ray") is None:
        if options.address:
            raise UsageError("--address needs Ray: pip install 'pcvpt[sweep]'")
        if not options.sequential:
            print("Runs go one after another; with pip install 'pcvpt[sweep]' side by side.")
        return OneByOne()
    workers = OnRay(options.address, options.cpus_per_run, options.gpus_per_run)
    print(f"Ray shows what runs where: {workers.dashboard}" * bool(workers.dashboard))
    return workers


def main_table(arguments: Sequence[str]) -> int:
    """Run ``pcvpt table``; return the exit status. A UsageError tells a mistake in the study."""
    options = _with_formats(_parser("table", _TABLE)).parse_args(arguments or ["--help"])
    study = read_study(options.study)
    lines = lines_of(study, options.output_dir.expanduser() / "by_configuration")
    _print(options, study.configs, lines, _title(study))
    return 0


def main_compare(arguments: Sequence[str]) -> int:
    """Run ``pcvpt compare``; return the exit status. A UsageError refuses runs without a test."""
    parser = argparse.ArgumentParser("pcvpt compare", description=_COMPARE, allow_abbrev=False)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Folder of a finished run.")
    options = _with_formats(parser).parse_args(arguments or ["--help"])
    lines = lines_of_runs(options.runs)
    _print(options, list(lines[0].found), lines, "Test accuracy in percent")
    return 0


def _print(
    options: argparse.Namespace, configs: Sequence[str], lines: Sequence[Line], title: str
) -> None:
    if options.equal is not None:
        rows = at_equal_accuracy(configs, lines, options.equal)
        title += f": fewest prompts with at most {options.equal:g} points less than the first row"
    else:
        rows = differences(lines) if options.differences else table(configs, lines)
    if options.figure is not None:
        _draw(options.figure, configs, lines, title)
    if options.format == "terminal":
        print_table(rows, title=title)
    else:
        print(written(rows, options.format), end="")


def _draw(file: Path, configs: Sequence[str], lines: Sequence[Line], title: str) -> None:
    from pcvpt.analysis.figures.accuracy import table_figure
    from pcvpt.analysis.figures.style import save_figure  # matplotlib takes a second

    found = series_of(configs, lines)
    if not found:
        raise UsageError(f"--figure {file}: no cell of the table has a result yet")
    for path in save_figure(table_figure(found, title), file.with_suffix("")):
        print(f"Wrote {path}")


def _with_formats(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    forms = ("terminal", "markdown", "csv", "latex", "json")
    parser.add_argument("--format", choices=forms, default="terminal", help="Default: terminal.")
    text = "File to draw accuracy over prompts and over cost to, .png and .svg."
    parser.add_argument("--figure", type=Path, metavar="FILE", help=text)
    add = parser.add_mutually_exclusive_group().add_argument
    text = "Print paired differences to the first row, with 95 %% confidence intervals."
    add("--differences", action="store_true", help=text)
    text = "Print the fewest prompts of each method that lose at most POINTS of the first row."
    add("--equal", type=float, metavar="POINTS", help=text)
    return parser


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"pcvpt {name}", description=text, allow_abbrev=False)
    parser.add_argument("study", metavar="STUDY.yaml", type=Path, help="The study.")
    parser.add_argument("--output_dir", type=Path, default=Path("runs"), help="Folder of all runs.")
    return parser


def _title(study: Study) -> str:
    searched = any(cell.search.values for cell in study.cells)
    how = "; settings chosen on validation images" * searched
    return f"{study.name}: test accuracy in percent, last epoch{how}"


def _record(study: Study, pool: Path, rows: Sequence[Mapping[str, str]], file: Path) -> None:
    """Write the table of ``study`` to ``file``, with what was chosen, and how."""
    text = f"# {_title(study)}\n\nMean ± standard deviation over seeds, by `pcvpt sweep`. "
    text += "Accuracies are of the whole test split.\n\n" + written(rows, "markdown")
    chosen = [
        {
            "config": cell.config,
            "method": cell.name,
            "chosen": ", ".join(f"{k} {told(v)}" for k, v in cell.chosen(val_accuracy(pool)) or ())
            or "not yet",
            "of": f"{cell.search.planned} by {cell.search.sampler}, seed {cell.search.seed}",
        }
        for cell in study.cells
        if cell.search.values
    ]
    if chosen:
        text += "\nChosen by the accuracy on the validation split after the last epoch, before "
        text += "any test:\n\n" + written(chosen, "markdown")
    write_text(file, text)
    print(f"Written: {file}")


def _link(study: Study, pool: Path, folder: Path) -> None:
    """Link the runs of ``study`` under names that a person reads, for TensorBoard."""
    folder.mkdir(parents=True, exist_ok=True)
    accuracy = val_accuracy(pool)
    for cell in study.cells:
        for seed, run in cell.runs(accuracy).items():
            link = folder / re.sub(r"[^\w.=,-]+", "_", f"{cell.config},{cell.name},seed={seed}")
            if link.is_symlink():  # another choice, or another configuration
                link.unlink()
            if (pool / run.key).is_dir():
                link.symlink_to((pool / run.key).resolve(), target_is_directory=True)
    print(f"TensorBoard shows all runs of the table: tensorboard --logdir {folder}")


def _print_plan(study: Study, pool: Path) -> list[tuple[int, list[Run]]]:
    """Print the runs of ``study``; return the number of those of each cell without a fitted run.

    Beside each number are some of those runs, as far as they are known.
    """
    accuracy = val_accuracy(pool)
    rows: list[Row] = []
    fitted = 0
    unfitted: list[tuple[int, list[Run]]] = []
    known = [0.0, 0.0]  # seconds and multiply-accumulates of cells with a fitted run
    for cell in study.cells:
        runs = *cell.candidates(accuracy).values(), *cell.runs(accuracy).values()
        different = {run.key: run for run in runs}.values()
        spent = [one for one in (spent_on(pool, run) for run in different) if one is not None]
        missing = cell.planned - len(spent)
        fitted += len(spent)
        means = [statistics.mean(of) for of in zip(*spent, strict=True)]
        if not spent:
            unfitted.append((missing, [*different] or [cell.example(accuracy)]))
        elif missing:
            known = [sum_ + missing * mean for sum_, mean in zip(known, means, strict=True)]
        rows.append(
            {
                "config": cell.config,
                "method": cell.name,
                "from": cell.start.method if cell.start else "",
                "search": cell.search.planned,
                "seeds": len(cell.seeds),
                "fitted": len(spent),
                "minutes of a run": f"{means[0] / 60:.1f}" if spent else "",
            }
        )
    total = sum(cell.planned for cell in study.cells)
    print_table(rows, title=f"{study.name}: {total} runs, {fitted} of them are fitted")
    if 0 < fitted < total:
        print(f"One after another, as runs here took: {_told_cost(*known)} are left")
    return unfitted


def _print_estimate(unfitted: Sequence[tuple[int, Sequence[Run]]]) -> None:
    """Print the cost of runs of cells without a fitted run."""
    from pcvpt.cli.studies.estimate import planned_macs, planned_seconds  # imports torch

    costs, unknown = [0.0, 0.0], 0
    for missing, runs in unfitted:
        macs = statistics.mean(map(planned_macs, runs))
        if math.isnan(macs):
            unknown += missing
        else:
            costs[0] += missing * planned_seconds(runs[0], macs)
            costs[1] += missing * macs
    if costs[1]:
        print(f"Methods without a fitted run: {_told_cost(*costs)}. One after another, that is the")
        print("least time, measured by products of matrices on this machine as it is now.")
    if unknown:
        print(f"{unknown} runs are on images that no run has counted yet; the first one tells")


def _told_cost(seconds: float, macs: float) -> str:
    counted = f" and {macs:.2g} multiply-accumulates (training, forward alone)" * (macs > 0)
    lasts = f"{seconds / 60:,.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"
    return f"{lasts}{counted}"


def check_options(study: Study) -> None:
    """Refuse options that ``pcvpt fit`` would refuse, before anything runs."""
    from pcvpt.cli.config_errors import parse  # imports torch, which a plan does not need

    seen: set[tuple[str, ...]] = set()
    for cell in study.cells:
        start = cell.start.base.arguments() if cell.start else []
        base = [*start, *cell.base.arguments(), *(argument(*option) for option in cell.final)]
        tried = {argument(key, one) for key, of in cell.search.values.items() for one in of}
        for further in ([], *([one] for one in sorted(tried))):
            key = cell.method, *(argument(*option) for option in cell.varied), *further
            if key not in seen:
                seen.add(key)
                parse("fit", expand([*base, *further])[0])


def _tell_changes(study: Study, copy: Path) -> None:
    """Tell what a changed study will run anew, and keep its content for the next time."""
    now = {key: json.dumps(value, default=str) for key, value in leaves(study.content)}
    before = read_json(copy) if copy.is_file() else now
    changed = [key for key in sorted(now.keys() | before.keys()) if now.get(key) != before.get(key)]
    if changed:
        told = "; ".join(f"{k}: {before.get(k, 'none')}, now {now.get(k, 'none')}" for k in changed)
        print(f"{study.file} has changed ({told}). Runs of before are kept; other ones are run.")
    write_text(copy, json.dumps(now, indent=1) + "\n")

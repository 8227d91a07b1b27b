"""The table of a study: mean and deviation over seeds of what its runs measured on test images."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pcvpt.cli.studies.lines import Line
from pcvpt.data.published_results import accuracies
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError

Row = dict[str, str]
"""Cells by the names of their columns."""

_VTAB = {"natural", "specialized", "structured"}
_WIDEST = 6  # configs that are columns
_PUBLISHED = {
    "full": "full fine-tuning, published",
    "linear": "linear probe, published",
    "vpt_shallow": "VPT-Shallow, published",
    "vpt_deep": "VPT-Deep, published",
}


class Point(NamedTuple):
    """Mean and deviation of the accuracy in percent, at a number of prompts and a cost."""

    prompts: float
    macs: float | None
    accuracy: float
    deviation: float


def table(configs: Sequence[str], lines: Sequence[Line], published: bool = True) -> list[Row]:
    """Return the rows of the table as text, by the names of their columns.

    A missing cell says so, and one that lacks seeds says how many it has. For configs of the 24
    tasks, published accuracies are in rows of their own, and means of VTAB's groups in columns.
    """
    rows = []
    for line in lines:
        row = {"method": line.method, "stage": line.stage}
        points = {config: _point(line, config) for config in configs}
        row |= {config: _told(line, config) for config in configs}
        whole = {c: p.accuracy for c, p in points.items() if p and len(line.found[c]) == line.seeds}
        row |= _groups(configs, whole)
        if len(configs) == 1:
            point = points[configs[0]]
            row["prompts"] = f"{point.prompts:.0f}" if point else ""
            row["macs per image"] = f"{point.macs:.3g}" if point and point.macs else ""
        rows.append(row)
    if published and any(config in TASKS for config in configs):
        for method, title in _PUBLISHED.items():
            told = {c: accuracies(c)[method] for c in configs if c in TASKS}
            row = {"method": title, "stage": "ViT-B/16, not run here"}
            row |= {config: f"{value:.1f}" for config, value in told.items()}
            rows.append(row | _groups(configs, told))
    return rows if len(configs) <= _WIDEST else _transposed(rows)


def _transposed(rows: Sequence[Mapping[str, str]]) -> list[Row]:
    """Return a row for each config, and a column for each method and stage."""
    names = [f"{row['method']}, {row['stage']}" for row in rows]
    columns = [column for column in rows[0] if column not in ("method", "stage")]
    return [
        {"config": column}
        | {name: row.get(column, "") for name, row in zip(names, rows, strict=True)}
        for column in columns
    ]


def _point(line: Line, config: str) -> Point | None:
    """Return what ``line`` has for ``config``; None without a result."""
    tested = line.found.get(config, {}).values()
    if not tested:
        return None
    accuracies = [one.accuracy for one in tested]
    macs = [one.macs for one in tested if one.macs is not None]
    return Point(
        statistics.mean(one.prompts for one in tested),
        statistics.mean(macs) if macs else None,
        statistics.mean(accuracies),
        statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
    )


def series_of(configs: Sequence[str], lines: Sequence[Line]) -> dict[str, dict[str, list[Point]]]:
    """Return the points of a figure, by config and series."""
    found: dict[str, dict[str, list[Point]]] = {}
    for config in configs:
        for line in lines:
            if point := _point(line, config):
                found.setdefault(config, {}).setdefault(line.series, []).append(point)
    return found


def differences(lines: Sequence[Line]) -> list[Row]:
    """Return paired differences to the first row, in points, over the seeds that both have.

    They are means with the half width of their 95 % confidence interval by Student's t.
    """
    first, *others = lines
    rows = []
    for line in others:
        row = {"method": f"{line.method}, {line.stage}", "minus": f"{first.method}, {first.stage}"}
        for config in first.found:
            own = line.found.get(config, {})
            pairs = [(own[seed], one) for seed, one in first.found[config].items() if seed in own]
            row[config] = _difference([mine.accuracy - its.accuracy for mine, its in pairs])
        rows.append(row)
    return rows


def at_equal_accuracy(configs: Sequence[str], lines: Sequence[Line], points: float) -> list[Row]:
    """Return the fewest prompts of each method with at most ``points`` less than the first row.

    Compared are means over seeds, and only numbers of prompts that the runs have. A UsageError is
    raised if the first row has no result.
    """
    if not lines[0].found:
        raise UsageError("the first row has no result yet; run the study by `pcvpt sweep`")
    rows = []
    for config, series in series_of(configs, lines).items():
        if lines[0].series not in series:
            continue
        least = series[lines[0].series][0].accuracy - points
        for name, measured in series.items():
            enough = [one for one in measured if one.accuracy >= least]
            fewest = min(enough, key=lambda one: one.prompts, default=None)
            row = {"config": config, "method": name, "prompts": "none is enough"}
            if fewest:
                row["prompts"] = f"{fewest.prompts:.0f}"
                row["macs per image"] = f"{fewest.macs:.3g}" if fewest.macs else ""
                row["test accuracy"] = f"{fewest.accuracy:.1f}"
            rows.append(row)
    return rows


def _difference(gaps: Sequence[float]) -> str:
    if not gaps:
        return "missing"
    if len(gaps) == 1:
        return f"{gaps[0]:+.1f} (1 seed)"
    from scipy.stats import t  # takes a second

    half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return f"{statistics.mean(gaps):+.1f} ± {half:.1f}"


def _told(line: Line, config: str) -> str:
    point, runs = _point(line, config), len(line.found.get(config, {}))
    if point is None:
        return "missing"
    spread = f" ± {point.deviation:.1f}" if runs > 1 else ""
    number = f" ({runs} of {line.seeds} seeds)" if runs < line.seeds else f" ({line.seeds})"
    return f"{point.accuracy:.1f}{spread}{number}"


def _groups(configs: Sequence[str], means: Mapping[str, float]) -> dict[str, str]:
    """Return the mean of each whole group of tasks, and VTAB's mean of its three groups.

    A group is shown if the study has all of its tasks, and is missing until each has all seeds.
    """
    found: dict[str, float | None] = {}
    for group in dict.fromkeys(task.group for task in TASKS.values()):
        tasks = [task.name for task in TASKS.values() if task.group == group]
        if set(tasks) <= set(configs):
            whole = set(tasks) <= set(means)
            found[group] = statistics.mean(means[name] for name in tasks) if whole else None
    if found.keys() >= _VTAB:
        known = [value for group in _VTAB if (value := found[group]) is not None]
        found["the groups"] = statistics.mean(known) if len(known) == len(_VTAB) else None
    return {f"mean of {k}": "missing" if v is None else f"{v:.1f}" for k, v in found.items()}


def written(rows: Sequence[Mapping[str, str]], form: str) -> str:
    """Return ``rows`` as "markdown", "csv", "latex" or "json"."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[row.get(column, "") for column in columns] for row in rows]
    if form == "json":
        return json.dumps([dict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *cells])
        return text.getvalue()
    if form == "latex":
        escaped = str.maketrans({"±": r"$\pm$", "%": r"\%", "_": r"\_"})
        head, *body = (" & ".join(row).translate(escaped) + r" \\" for row in [columns, *cells])
        start, end = rf"\begin{{tabular}}{{ll{'r' * (len(columns) - 2)}}}", r"\end{tabular}"
        lines = [start, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end, ""]
        return "\n".join(lines)
    lines = [" | ".join(row) for row in [columns, ["---"] * len(columns), *cells]]
    return "".join(f"| {line} |\n" for line in lines)

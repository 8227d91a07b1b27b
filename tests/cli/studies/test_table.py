"""The table of a study: means, missing cells, groups, paired differences, and its formats."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pcvpt.analysis.figures.accuracy import table_figure
from pcvpt.cli.studies.engine import Job, sweep
from pcvpt.cli.studies.lines import Line, Outcome, lines_of
from pcvpt.cli.studies.study import Run
from pcvpt.cli.studies.table import (
    at_equal_accuracy,
    differences,
    series_of,
    table,
    written,
)
from pcvpt.data.published_results import accuracies
from pcvpt.errors import UsageError

from .conftest import Made, finish

TESTS = {("linear", 0): 70.0, ("linear", 1): 72.0, ("vpt", 0): 75.0, ("vpt", 1): 78.0}


@pytest.fixture
def two(study: Any) -> Any:
    return study(
        configs=["demo.yaml"],
        methods={
            "linear": {"configs": ["linear.yaml"], "options": {"name": "linear"}},
            "vpt": {"configs": ["vpt.yaml"], "options": {"name": "vpt"}},
        },
        seeds=[0, 1],
    )


@pytest.fixture
def run(two: Any, tmp_path: Path) -> Any:
    def of(options: dict[str, Any]) -> tuple[float, float]:
        return 50.0, TESTS[options["name"], options["seed_everything"]]

    sweep(two, tmp_path / "pool", Made(of), 1, lambda line: None)
    return lines_of(two, tmp_path / "pool")


def test_cells_are_mean_deviation_and_number_of_seeds(two: Any, run: Any) -> None:
    linear, vpt = table(two.configs, run)
    assert linear["demo"] == "71.0 ± 1.4 (2)"
    assert vpt["demo"] == "76.5 ± 2.1 (2)"
    assert vpt["prompts"] == "120"


def test_what_is_missing_is_shown_as_missing(two: Any, tmp_path: Path) -> None:
    rows = table(two.configs, lines_of(two, tmp_path / "empty"))
    assert [row["demo"] for row in rows] == ["missing", "missing"]


def test_fewest_prompts_at_equal_accuracy() -> None:
    def line(series: str, accuracy: float, prompts: int) -> Line:
        values = {0: accuracy - 1, 1: accuracy + 1}
        found = {seed: Outcome(value, prompts, 10.0 * prompts) for seed, value in values.items()}
        return Line(series, "", series, 2, {"cars": found})

    lines = [line("all", 80.0, 100), line("merged", 79.8, 30), line("merged", 79.5, 10)]
    lines += [line("merged", 79.4, 5), line("random", 70.0, 30)]
    every, merged, random = at_equal_accuracy(["cars"], lines, 0.5)
    assert every["prompts"] == "100"
    assert (merged["prompts"], merged["macs per image"]) == ("10", "100")
    assert merged["test accuracy"] == "79.5"
    assert random == {"config": "cars", "method": "random", "prompts": "none is enough"}
    with pytest.raises(UsageError, match="first row has no result yet"):
        at_equal_accuracy(["cars"], [lines[0]._replace(found={})], 0.5)


def test_differences_are_paired_by_seed(run: Any) -> None:
    (row,) = differences(run)
    assert row["demo"].startswith("+5.5 ± ")  # 5 and 6 points
    half = float(row["demo"].split("± ")[1])
    assert half == pytest.approx(12.706 * 0.7071 / 2**0.5, abs=0.06)


def test_groups_and_published_values_stand_beside_ours(study: Any, tmp_path: Path) -> None:
    made = study(configs=["vtab"], methods=["vpt.yaml"])
    rows = {row["config"]: row for row in table(made.configs, lines_of(made, tmp_path))}
    name = "VPT-Deep, published, ViT-B/16, not run here"
    assert float(rows["dtd"][name]) == accuracies("dtd")["vpt_deep"]
    assert rows["mean of natural"]["vpt, fine-tuned"] == "missing"
    assert float(rows["mean of natural"][name]) == pytest.approx(78.5, abs=0.1)


@pytest.mark.parametrize("form", ["markdown", "csv", "latex", "json"])
def test_every_format_has_every_cell(two: Any, run: Any, form: str) -> None:
    rows = table(two.configs, run)
    text = written(rows, form)
    if form == "json":
        assert json.loads(text) == rows
    elif form == "csv":
        assert list(csv.DictReader(io.StringIO(text))) == rows
    else:
        assert "71.0 ± 1.4 (2)" in text.replace("$\\pm$", "±")
        assert len(text.splitlines()) == {"markdown": 4, "latex": 8}[form]


def test_runs_that_differ_in_the_seed_alone_share_a_row(command: Any, tmp_path: Path) -> None:
    runs = []
    for name, seed, keep, test in (("a", 0, 0.1, 70.0), ("b", 1, 0.1, 72.0), ("c", 0, 0.3, 75.0)):
        job = Job(Run((), ()), tmp_path / name, ())
        finish(job, 60.0, test)
        runs.append(job.folder / "version_0")
        content = {"seed_everything": seed, "name": name, "condense": {"keep": keep}}
        (runs[-1] / "config.yaml").write_text(yaml.safe_dump(content))
    found = json.loads(command("compare", *runs, "--format", "json").output)
    assert [row["test accuracy"] for row in found] == ["71.0 ± 1.4 (2)", "75.0 (1)"]
    assert "there twice" in command("compare", runs[0], runs[0]).error
    (runs[0] / "results.json").unlink()
    assert "not finished yet" in command("compare", runs[0]).error


def test_a_figure_shows_each_series_over_prompts_and_cost(
    run: Any, command: Any, two: Any, tmp_path: Path
) -> None:
    found = series_of(two.configs, run)
    assert list(found["demo"]) == ["linear", "vpt"]
    (point,) = found["demo"]["vpt"]
    assert point == (120, 34.1e6, 76.5, pytest.approx(2.12, abs=0.01))
    drawn = table_figure(found, "two methods")
    texts = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert texts == list(found["demo"])
    assert [len(axes.containers) for axes in drawn.axes] == [2, 2]
    empty = command(
        "table", two.file, "--output_dir", tmp_path / "no", "--figure", tmp_path / "a.png"
    )
    assert "no cell of the table has a result yet" in empty.error

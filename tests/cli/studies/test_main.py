"""The commands: what a plan says, and what is refused before anything runs."""

import json
import re
from pathlib import Path
from typing import Any

from pcvpt.cli.studies.workers import Job

from .conftest import finish


def test_a_plan_tells_runs_and_hours_by_those_that_are_fitted(
    study: Any, command: Any, tmp_path: Path
) -> None:
    made = study(configs=["demo.yaml"], methods=["linear.yaml", "vpt.yaml"], seeds=[0, 1, 2])
    ended = command("sweep", made.file, "--plan", "--output_dir", tmp_path)
    assert "6 runs, 0 of them are fitted" in ended.output
    unfitted = r"\d+\.\d minutes and \S+ multiply-accumulates \(training, forward alone\)"
    assert re.search(unfitted, ended.output)
    run = made.cells[0].runs(lambda *_: None)[0]
    job = Job(run, tmp_path / "by_configuration" / run.key, ())
    finish(job, 70.0)
    results = job.folder / "version_0" / "results.json"
    further = {"seconds_prompt": 1800.0, "data": {"images": {"train": 1000}}}
    results.write_text(json.dumps(json.loads(results.read_text()) | further))
    (job.folder / "version_0" / "metrics.csv").write_text("phase,budget\nprompt,\nprompt,\n")
    ended = command("sweep", made.file, "--plan", "--output_dir", tmp_path)
    assert "6 runs, 1 of them are fitted" in ended.output
    macs = f"{2 * 2 * 1000 * 34.1e6:.2g}"  # two runs of two epochs of 1,000 images
    told = f"60.0 minutes and {macs} multiply-accumulates (training, forward alone) are left\n"
    assert told in ended.output
    assert re.search(f"Methods without a fitted run: {unfitted}", ended.output)


def test_a_plan_tells_what_starts_from_what(command: Any, tmp_path: Path) -> None:
    ended = command("sweep", "condensation.yaml", "--plan", "--output_dir", tmp_path)
    assert "30 runs, 0 of them are fitted" in ended.output
    assert re.search(r"merged +│ all prompts", ended.output)


def test_a_sweep_writes_its_table_and_what_was_chosen(
    study: Any, command: Any, tmp_path: Path
) -> None:
    rates = {"model.prompt.base_lr": [0.1, 0.3]}
    made = study(configs=["demo.yaml"], methods=["linear.yaml"], search={"vary": rates})
    candidates = made.cells[0].candidates(lambda *_: None).values()
    for run, val, test in zip(candidates, (60.0, 70.0), (90.0, 50.0), strict=True):
        finish(Job(run, tmp_path / "by_configuration" / run.key, ()), val, test)
    command("sweep", made.file, "--sequential", "--output_dir", tmp_path)
    text = (tmp_path / "studies" / "mine" / "RESULTS.md").read_text()
    assert "| linear | all prompts | 50.0 (1) | 120 | 3.41e+07 |" in text
    assert "| demo | linear | model.prompt.base_lr 0.3 | 2 by grid, seed 0 |" in text


def test_an_option_that_does_not_exist_is_refused_before_any_run(
    study: Any, refusal: Any, tmp_path: Path
) -> None:
    for place in (
        {"options": {"model.number": 3}},
        {"search": {"vary": {"model.number": [3]}}},
        {"final": {"model.number": 3}},
    ):
        made = study(configs=["demo.yaml"], methods=["vpt.yaml"], **place)
        error = refusal("sweep", made.file, "--sequential", "--output_dir", tmp_path / "runs")
        assert "model.number" in error
        assert not (tmp_path / "runs").exists()


def test_a_table_is_of_one_kind(command: Any) -> None:
    ended = command("table", "demo", "--differences", "--equal", "1")
    assert ended.status == 2
    assert "argument --equal: not allowed with argument --differences" in ended.output


def test_a_changed_study_says_what_has_changed(study: Any, command: Any, tmp_path: Path) -> None:
    def begin(**content: Any) -> str:
        made = study(configs=["demo.yaml"], methods=["linear.yaml"], **content)
        for run in made.cells[0].runs(lambda *_: None).values():
            job = Job(run, tmp_path / "by_configuration" / run.key, ())
            if not job.folder.exists():
                finish(job, 70.0, 60.0)
        return str(command("sweep", made.file, "--sequential", "--output_dir", tmp_path).output)

    assert "has changed" not in begin(options={"model.prompt.base_lr": 0.1})
    changed = begin(options={"model.prompt.base_lr": 0.3})
    assert "options.model.prompt.base_lr: 0.1, now 0.3" in changed
    assert len(list((tmp_path / "by_configuration").iterdir())) == 2

"""How far runs are, which candidates a search stops, and what a person sees of both."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pcvpt.cli.studies.engine import State, sweep, val_accuracy
from pcvpt.cli.studies.live import Display
from pcvpt.cli.studies.progress import STOPPED, Halving, epochs_of, schedule_of
from pcvpt.cli.studies.workers import LOG, Failure, Job

from .conftest import Made, finish

CONDENSE = {"keep": 0.3, "prompt_epochs": 20, "finetune_epochs": 5}


def run_for(folder: Path, accuracy: list[float], **condense: Any) -> Path:
    """Leave in ``folder`` a run that goes on, with ``accuracy`` on val after each epoch."""
    run = folder / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "prompt-last.ckpt").touch()
    (run / "config.yaml").write_text(yaml.safe_dump({"condense": CONDENSE | condense}))
    trained = {**CONDENSE, **condense}["prompt_epochs"]
    rows = [
        f"{epoch},{'prompt' if epoch < trained else 'finetune'},{value}"
        for epoch, value in enumerate(accuracy)
    ]
    (run / "metrics.csv").write_text("\n".join(["epoch,phase,val/accuracy", *rows, ""]))
    return folder


def test_a_quarter_of_the_candidates_goes_on(tmp_path: Path) -> None:
    folders = [run_for(tmp_path / str(n), [0.1, (n + 1) / 10]) for n in range(8)]
    halving = Halving(2, tuple(folders))
    assert [halving.stops(folder) for folder in folders] == [True] * 6 + [False] * 2


@pytest.mark.parametrize("grace", [1, 5])  # nothing is known after one epoch, so four count
def test_the_last_validation_counts(grace: int, tmp_path: Path) -> None:
    seldom: list[list[Any]] = [["", "", "", value, ""] for value in (0.4, 0.6)]
    low, high = (run_for(tmp_path / str(value[3]), value) for value in seldom)
    halving = Halving(grace, (low, high))
    assert (halving.stops(low), halving.stops(high)) == (True, False)


def test_the_first_to_come_goes_on_and_no_one_is_stopped_before_the_grace(tmp_path: Path) -> None:
    first, second = run_for(tmp_path / "0", [0.1, 0.2]), run_for(tmp_path / "1", [0.9])
    halving = Halving(2, (first, second, tmp_path / "not begun"))
    assert not any(halving.stops(folder) for folder in halving.rivals)


@pytest.mark.parametrize("epochs", [20, 23])
def test_trained_prompts_are_not_stopped(tmp_path: Path, epochs: int) -> None:
    good, bad = run_for(tmp_path / "0", [0.9] * 20), run_for(tmp_path / "1", [0.1] * epochs)
    assert not Halving(2, (good, bad)).stops(bad)
    worse = run_for(tmp_path / "2", [0.1] * 19)
    assert Halving(2, (good, worse)).stops(worse)


def test_the_choice_is_made_among_the_others(study: Any, tmp_path: Path) -> None:
    rate = "model.prompt.base_lr"
    search = {"vary": {rate: [0.1, 0.2, 0.3]}, "grace": 5}
    made = study(configs=["demo.yaml"], methods=["linear.yaml"], search=search, seeds=[0])

    class Stops(Made):
        def wait(self) -> tuple[Job, Failure | None]:
            job = self.waiting.pop()
            value = dict(job.run.options)[rate]
            if not job.stages and value == 0.3:
                assert job.halving is not None
                assert len(job.halving.rivals) == 3
                job.folder.mkdir(parents=True)
                (job.folder / STOPPED).touch()
            elif not job.folder.exists():
                finish(job, 70 + value, 60.0)
            return job, None

    workers = Stops(lambda options: (0.0, 0.0))
    assert sweep(made, tmp_path, workers, 1, lambda line: None) == {}
    (cell,) = made.cells
    assert dict(cell.chosen(val_accuracy(tmp_path)) or ()) == {rate: 0.2}
    stopped = next(run for tried, run in cell.candidates(val_accuracy(tmp_path)).items()
                   if dict(tried)[rate] == 0.3)  # fmt: skip
    assert val_accuracy(tmp_path)(stopped) is None  # in a study that stops none, it goes on
    assert not Job(stopped, tmp_path / stopped.key, ()).finished()


def test_a_bad_grace_is_refused(study: Any) -> None:
    with pytest.raises(Exception, match="search: grace is 0; give a number of epochs"):
        study(configs=["demo.yaml"], methods=["linear.yaml"], search={"grace": 0})


def test_epochs_of_both_phases_and_all_budgets(tmp_path: Path) -> None:
    folder = run_for(tmp_path, [0.5] * 3, keep=[0.3, 0.1])
    assert len(epochs_of(folder)) == 3
    schedule = schedule_of(folder)
    assert schedule is not None
    assert schedule.total_epochs == 20 + 2 * 5
    assert epochs_of(tmp_path / "none") == []
    assert schedule_of(tmp_path / "none") is None


def test_a_person_sees_what_runs_what_is_done_and_what_is_best(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study(configs=["demo.yaml"], methods=["linear.yaml"], seeds=[0, 1, 2])
    runs = list(made.cells[0].runs(lambda *_: None).values())
    jobs = [
        Job(run, tmp_path / run.key, ("trained",), name=f"seed {seed}")
        for seed, run in enumerate(runs)
    ]
    finish(jobs[0], 71.5, 60.0)
    run_for(jobs[1].folder, [0.1, 0.625])
    now = time.time()
    (jobs[1].folder / LOG).touch()
    display = Display(tmp_path)
    display.state = State(
        {job.run.key: job for job in jobs},
        {job.run.key: now - 1 for job in jobs[1:]},
        {(jobs[0].run.key, jobs[0].stages)},
    )
    console = Console(record=True, width=100)
    console.print(display._table())
    text = console.export_text()
    assert "1 of 3 known runs are done, 1 run, 1 wait, 0 failed" in text
    assert "prompt 2/25" in text
    assert "62.5 %" in text
    assert "best on val so far: seed 0, 71.5 %" in text
    # An epoch in ten seconds, and 22 of 25 to go.
    monkeypatch.setattr("time.time", lambda: now + 10)
    table = jobs[1].folder / "version_0" / "metrics.csv"
    table.write_text(table.read_text() + "2,prompt,0.7\n")
    console.print(display._table())
    assert "4 min" in console.export_text()

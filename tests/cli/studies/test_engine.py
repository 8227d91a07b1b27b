"""Running a study: nothing twice, choices before seeds, failures beside the rest."""

from pathlib import Path
from typing import Any

import pytest

from pcvpt.cli.studies.engine import sweep
from pcvpt.cli.studies.study import Run
from pcvpt.cli.studies.workers import Failure, Job, execute
from pcvpt.runs.folder import finished_run

from ..conftest import PRUNED, SMALL
from .conftest import Made, finish

RATE = "model.prompt.base_lr"
SEARCH = {"vary": {RATE: [0.1, 0.3]}}


def of_rate(options: dict[str, Any]) -> tuple[float, float]:
    """Return val and test accuracy: 0.3 is best on val and worst on test."""
    return {0.1: (70.0, 80.0), 0.3: (75.0, 60.0)}[options[RATE]]


@pytest.fixture
def searched(study: Any) -> Any:
    return study(configs=["demo.yaml"], methods=["linear.yaml"], search=SEARCH, seeds=[0, 1])


def test_seeds_follow_the_choice_and_nothing_runs_twice(searched: Any, tmp_path: Path) -> None:
    told: list[str] = []
    first = Made(of_rate)
    assert sweep(searched, tmp_path / "pool", first, 1, told.append) == {}
    # Seed 0 with the best rate is one of the candidates, so it is trained once.
    assert [dict(job.run.options)[RATE] for job in first.started].count(0.3) == 2
    assert len({job.run.key for job in first.started}) == len(first.started) == 3
    again = Made(of_rate)
    sweep(searched, tmp_path / "pool", again, 1, told.append)
    assert not again.started


def test_a_candidate_that_is_a_run_of_the_table_too_is_tested_after_the_choice(
    searched: Any, tmp_path: Path
) -> None:
    class Tests(Made):
        def wait(self) -> tuple[Job, Failure | None]:
            job = self.waiting.pop()
            run = job.folder / "version_0"
            if not run.exists():
                finish(job, *of_rate(dict(job.run.options))[: 1 + bool(job.stages)])
            for stage in job.stages and ("prompt-last",):
                (run / f"test-{stage}.json").write_text('{"test/accuracy": 0.6}')
            return job, None

    workers = Tests(of_rate)
    assert sweep(searched, tmp_path, workers, 1, lambda line: None) == {}
    started = [(job.run.key, bool(job.stages)) for job in workers.started]
    assert len(started) == len(set(started)) == 4  # two candidates, then two seeds
    assert len({key for key, _ in started}) == 3


def test_a_failure_is_tried_again_and_does_not_stop_the_rest(study: Any, tmp_path: Path) -> None:
    def of(options: dict[str, Any]) -> tuple[float, float] | Failure:
        if options["seed_everything"] == 1:
            return Failure("    no memory", may_pass=True)
        return 70.0, 70.0

    made = study(configs=["demo.yaml"], methods=["linear.yaml"], seeds=[0, 1, 2])
    workers, told = Made(of), list[str]()
    failures = sweep(made, tmp_path, workers, 3, told.append)
    assert len(failures) == 1
    assert len(workers.started) == 2 + 3
    assert any("no memory" in line for line in told)


def test_bad_input_is_not_tried_again(study: Any, tmp_path: Path) -> None:
    made = study(configs=["demo.yaml"], methods=["linear.yaml"])
    workers = Made(lambda options: Failure("    pcvpt: error: no", may_pass=False))
    assert len(sweep(made, tmp_path, workers, 3, lambda line: None)) == len(workers.started) == 1


def options(*arguments: str) -> tuple[tuple[str, Any], ...]:
    import yaml

    pairs = (argument.removeprefix("--").split("=") for argument in arguments)
    return tuple((key, yaml.safe_load(value)) for key, value in pairs)


def test_a_run_is_fitted_and_tested_in_its_folder(tmp_path: Path) -> None:
    run = Run(("demo.yaml",), options(*PRUNED, *SMALL))
    job = Job(run, tmp_path / run.key, ("trained", "finetuned"))
    assert execute(job) is None, (job.folder / "sweep.log").read_text()
    folder = finished_run(job.folder)
    assert folder is not None
    tests = sorted(file.stem for file in folder.glob("test-*.json"))
    assert tests == ["test-finetune-last", "test-prompt-last"]
    assert job.finished()
    before = (job.folder / "sweep.log").read_text()
    assert execute(job) is None
    assert "is finished; there is nothing to resume" in (job.folder / "sweep.log").read_text()
    assert len(before) > 0


def test_a_full_disk_is_one_failure_that_may_pass(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "sweep.log"))

    monkeypatch.setattr(Path, "mkdir", full)
    failure = execute(Job(Run(("demo.yaml",), ()), tmp_path / "full", ()))
    assert failure is not None
    assert failure.may_pass
    assert "No space left on device" in failure.lines


def test_a_node_without_the_folders_says_so(tmp_path: Path) -> None:
    failure = execute(Job(Run(("demo.yaml",), ()), tmp_path / "run", (), tmp_path / "none"))
    assert failure is not None
    assert not failure.may_pass
    assert f"has no folder {tmp_path / 'none'}" in failure.lines
    assert not (tmp_path / "run").exists()


def test_a_refused_run_says_why(tmp_path: Path) -> None:
    run = Run(("demo.yaml",), options("--condense.keep=7"))
    failure = execute(Job(run, tmp_path / run.key, ()))
    assert failure is not None
    assert "keep=7.0; give the fraction of prompts to keep" in failure.lines
    assert not failure.may_pass

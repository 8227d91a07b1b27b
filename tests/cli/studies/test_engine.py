"""Running a study: nothing twice, choices before seeds, failures beside the rest."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pcvpt.cli.studies.engine import spent_on, sweep, val_accuracy
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


@pytest.fixture
def dependent(study: Any) -> Any:
    """Prompts of two seeds, and a condensation that is given first rates to choose from."""
    methods = {
        "deep": {"configs": ["vpt.yaml"]},
        "pruned": {
            "from": "deep",
            "options": {"condense.keep": 0.3},
            "search": {"vary": {"model.finetune.base_lr": [0.1, 0.3]}},
        },
    }
    final = {"data.init_args.batch_size": 50}
    return study(configs=["demo.yaml"], methods=methods, seeds=[0, 1], final=final)


def test_a_run_starts_after_the_one_that_it_starts_from(dependent: Any, tmp_path: Path) -> None:
    class Ordered(Made):
        def start(self, job: Job) -> None:
            if job.run.start is not None:
                assert finished_run(tmp_path / job.run.start.key) is not None
            super().start(job)

    workers = Ordered(lambda options: (70.0, 60.0))
    assert sweep(dependent, tmp_path, workers, 1, lambda line: None) == {}
    started = [job.run.key for job in workers.started]
    # Two seeds of each, two candidates, and the prompts that these start from, without `final`.
    assert len(started) == len(set(started)) == 2 + 2 + 2 + 1


def test_what_starts_from_a_run_that_failed_says_so(dependent: Any, tmp_path: Path) -> None:
    def of(options: dict[str, Any]) -> tuple[float, float] | Failure:
        deep = "condense.keep" not in options
        return Failure("    no", False) if deep and options["seed_everything"] else (70.0, 60.0)

    workers, told = Made(of), list[str]()
    failures = sweep(dependent, tmp_path, workers, 1, told.append)
    start, after = dependent.cells
    key = start.runs(lambda *_: 1.0)[1].key
    assert [lines for lines, _ in failures.values()] == [
        "    no",
        f"    the run it starts from failed (demo, deep, seed 1, {key})",
    ]
    assert after.runs(val_accuracy(tmp_path))[0].key in {job.run.key for job in workers.started}
    assert any(line.startswith("FAILED  demo, pruned, seed 1") for line in told)


def test_the_choice_among_runs_of_several_budgets_is_by_their_mean(tmp_path: Path) -> None:
    run = Run(("demo.yaml",), ())
    finish(Job(run, tmp_path / run.key, ()), 70.0)
    budgets = [{"accuracy_masked": 1.0, "accuracy_finetuned": value} for value in (60.0, 70.0)]
    file = tmp_path / run.key / "version_0" / "results.json"
    file.write_text(json.dumps({"accuracy_before": 90.0, "budgets": budgets}))
    assert val_accuracy(tmp_path)(run) == 65.0


def test_no_test_is_read_before_the_choice(searched: Any, command: Any, tmp_path: Path) -> None:
    """The tests of the candidates hold what can't be read, as other studies may have left them."""
    first, second = searched.cells[0].candidates(lambda *_: None).values()
    finish(Job(first, tmp_path / "by_configuration" / first.key, ()), 70.0, 80.0)
    (test,) = tmp_path.glob("by_configuration/*/*/test-*.json")
    test.write_text("not a number")
    command("sweep", searched.file, "--plan", "--output_dir", tmp_path)
    ended = command("table", searched.file, "--output_dir", tmp_path)
    assert "missing" in ended.output
    finish(Job(second, tmp_path / "by_configuration" / second.key, ()), 60.0, 90.0)
    with pytest.raises(json.JSONDecodeError):  # the better one on val is read after the choice
        command("table", searched.file, "--output_dir", tmp_path)


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
    (removed,) = folder.glob("test-prompt-last.json")
    others = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    removed.unlink()
    assert execute(job) is None
    assert removed.read_bytes() == others[removed]  # only what is missing, and the same again
    assert all(
        file.read_bytes() == content for file, content in others.items() if file.suffix == ".ckpt"
    )


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


def test_a_condensation_starts_from_the_prompts_of_another_run(
    finished: Path, tmp_path: Path
) -> None:
    start = Run(("demo.yaml",), options(*PRUNED, *SMALL))
    shutil.copytree(finished, tmp_path / start.key / "version_0")
    run = Run(("demo.yaml",), (*start.options, ("condense.keep", 0.1)), start)
    job = Job(run, tmp_path / run.key, ("condensed",))
    assert execute(job) is None, (job.folder / "sweep.log").read_text()
    folder = tmp_path / run.key / "version_0"
    before, after = (json.loads((of / "results.json").read_text()) for of in (finished, folder))
    assert after["accuracy_before"] == before["accuracy_before"]
    assert sum(after["kept"]) == 12
    assert [file.stem for file in folder.glob("test-*.json")] == ["test-masked"]
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 1  # the head of the table, and the epoch of fine-tuning
    own = sum(after[f"seconds_{part}"] for part in ("condense", "finetune"))
    count = 1000 * after["macs"]  # one epoch of 1,000 images, of the fine-tuning alone
    assert spent_on(tmp_path, run) == (pytest.approx(own), count)


def test_a_refused_run_says_why(tmp_path: Path) -> None:
    run = Run(("demo.yaml",), options("--condense.keep=7"))
    failure = execute(Job(run, tmp_path / run.key, ()))
    assert failure is not None
    assert "keep=7.0; give the fraction of prompts to keep" in failure.lines
    assert not failure.may_pass

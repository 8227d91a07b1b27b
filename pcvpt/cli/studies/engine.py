"""Running the runs of a study: one after another, or side by side by Ray.

A run is ``pcvpt fit --resume`` in a process and a folder of its own, and the folders are the truth:
what they have is not run again, whoever ran it.
"""

import ctypes
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pcvpt.cli.studies.study import Run, Study
from pcvpt.errors import UsageError
from pcvpt.runs.folder import CHECKPOINTS, RESULTS, finished_run, tests_of

LOG = "sweep.log"
_SHOWN = 5  # last lines of the log of a run that failed
_REFUSED = 2  # exit status for bad input, which another try can't mend


class Job(NamedTuple):
    """One run, its folder of runs, the stages of it that are tested, and the working folder."""

    run: Run
    folder: Path
    stages: tuple[str, ...]
    place: Path = Path()

    def finished(self) -> bool:
        """Return whether it is fitted and tested."""
        run = finished_run(self.folder)
        return run is not None and all(tests_of(path) for path in stages_of(run, self.stages))


class Failure(NamedTuple):
    """How a run failed: the last lines of its log, and whether another try may help."""

    lines: str
    may_pass: bool


class Workers(Protocol):
    """Those who run jobs."""

    def start(self, job: Job) -> None:
        """Take ``job``."""

    def wait(self) -> tuple[Job, Failure | None]:
        """Return the next job that ended."""


def stages_of(run: Path, stages: tuple[str, ...]) -> dict[Path, tuple[str, str]]:
    """Return the checkpoints of ``stages`` in a finished run, with stage and budget of each.

    A run that condenses nothing has one stage, "trained".
    """
    found: dict[Path, tuple[str, str]] = {}
    for path in sorted((run / CHECKPOINTS).glob("*.ckpt")):
        name = path.stem.removesuffix("-last")
        phase, _, budget = name.partition("_")
        stage = {"prompt": "trained", "masked": "condensed", "finetune": "finetuned"}.get(phase)
        if stage is not None and not path.stem.endswith("-best"):
            found[path] = stage, budget
    condenses = any(stage != "trained" for stage, _ in found.values())
    wanted = stages if condenses else ("trained",)
    return {path: (stage, budget) for path, (stage, budget) in found.items() if stage in wanted}


def val_accuracy(pool: Path) -> Callable[[Run], float | None]:
    """Return a function that reads the validation accuracy at the end of a run in ``pool``."""
    known: dict[str, float] = {}

    def read(run: Run) -> float | None:
        if run.key not in known:
            folder = finished_run(pool / run.key)
            if folder is None:
                return None
            known[run.key] = _last_accuracy(json.loads((folder / RESULTS).read_text("utf-8")), run)
        return known[run.key]

    return read


def seconds_of(folder: Path) -> float | None:
    """Return how long the run in ``folder`` took, without its tests; None if it is not finished."""
    run = finished_run(folder)
    if run is None:
        return None
    results = json.loads((run / RESULTS).read_text("utf-8"))
    entries = [results, *results.get("budgets", [])]
    return sum(float(v) for one in entries for k, v in one.items() if k.startswith("seconds_"))


def _last_accuracy(results: dict[str, Any], run: Run) -> float:
    if "budgets" in results:
        raise UsageError(
            f"{' '.join(run.arguments())}: a search needs one accuracy of each run; give "
            "condense.keep one value there"
        )
    names = ("accuracy_finetuned", "accuracy_masked", "accuracy_before")
    return float(next(results[name] for name in names if name in results))


def sweep(
    study: Study, pool: Path, workers: Workers, tries: int, tell: Callable[[str], None]
) -> dict[str, Failure]:
    """Run all that is missing of ``study``; return the failures by the key of the run.

    Args:
        study: The study.
        pool: Folder of the folders of all runs, those of other studies too.
        workers: Those who run it.
        tries: How often a run is started that fails.
        tell: Takes a line for each run that starts, ends or fails.
    """
    accuracy = val_accuracy(pool)
    tried: Counter[str] = Counter()
    active: set[str] = set()
    done: set[tuple[str, tuple[str, ...]]] = set()  # a candidate may be tested later
    failures: dict[str, Failure] = {}
    while True:
        jobs = dict(_jobs(study, pool, accuracy))
        for key, (name, job) in jobs.items():
            if key in active or key in failures or (key, job.stages) in done:
                continue
            if job.finished():
                done.add((key, job.stages))
            else:
                active.add(key)
                tried[key] += 1
                again = f", try {tried[key]} of {tries}" * (tried[key] > 1)
                tell(f"start   {name} ({key}{again})")
                workers.start(job)
        if not active:
            return failures
        job, failure = workers.wait()
        key = job.run.key
        name = jobs[key][0]
        active.discard(key)
        if failure is None:
            done.add((key, job.stages))
            ended = sum((one, of.stages) in done for one, (_, of) in jobs.items())
            tell(f"done    {name} ({key}); {ended} of {len(jobs)} known so far")
        elif failure.may_pass and tried[key] < tries:
            tell(f"failed  {name} ({key}), is tried again")
        else:
            failures[key] = failure
            tell(f"FAILED  {name} ({job.folder / LOG}):\n{failure.lines}")


def _jobs(study: Study, pool: Path, accuracy: Any) -> Iterator[tuple[str, tuple[str, Job]]]:
    """Yield key, name and job of each run that is known by now; candidates are not tested."""
    for cell in study.cells:
        for tried, run in cell.candidates(accuracy).items():
            options = " ".join(f"{key.split('.')[-1]}={value}" for key, value in tried)
            yield run.key, (f"{cell.config}, {cell.name}, {options}", Job(run, pool / run.key, ()))
    for cell in study.cells:
        for seed, run in cell.runs(accuracy).items():
            name = f"{cell.config}, {cell.name}, seed {seed}"
            yield run.key, (name, Job(run, pool / run.key, cell.stages))


def execute(job: Job) -> Failure | None:
    """Fit and test ``job`` in processes of their own; what they print goes to its log."""
    job.folder.mkdir(parents=True, exist_ok=True)
    common = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    place = ("--output_dir", str(job.folder.parent), "--name", job.folder.name, "--resume")
    status = _call(job, "fit", *job.run.arguments(), *place, *common)
    run = finished_run(job.folder)
    if status or run is None:
        return _failure(job, status)
    for checkpoint in stages_of(run, job.stages):
        if not tests_of(checkpoint):
            status = _call(job, "test", str(run), "--ckpt_path", str(checkpoint), common[0])
            if status or not tests_of(checkpoint):
                return _failure(job, status)
    return None


def _call(job: Job, *arguments: str) -> int:
    command = [sys.executable, "-m", "pcvpt", *arguments]
    with (job.folder / LOG).open("ab") as log:
        return subprocess.call(
            command,
            cwd=job.place,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_end_with_parent,
        )


def _failure(job: Job, status: int) -> Failure:
    text = (job.folder / LOG).read_text("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()][-_SHOWN:]
    return Failure("\n".join(f"    {line}" for line in lines), status != _REFUSED)


def _end_with_parent() -> None:
    """Have Linux end this process when its parent ends, so that a killed worker leaves no fit."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


class OneByOne:
    """Runs jobs one after another, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[Job] = []

    def start(self, job: Job) -> None:
        """Put ``job`` behind the others."""
        self._waiting.append(job)

    def wait(self) -> tuple[Job, Failure | None]:
        """Run the first job."""
        job = self._waiting.pop(0)
        return job, execute(job)


class OnRay:
    """Runs jobs side by side, on the cores and GPUs of this machine or of a cluster.

    Args:
        address: Address of a cluster; None starts Ray here.
        cpus: Cores of each run.
        gpus: GPUs of each run, which may be a fraction.
        run: What runs a job.

    Raises:
        UsageError: If Ray is not installed, or the cluster does not answer.
    """

    def __init__(
        self,
        address: str | None,
        cpus: float,
        gpus: float,
        run: Callable[[Job], Failure | None] = execute,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise UsageError("Ray is not installed; pip install 'pcvpt[sweep]'") from error
        self._ray = ray
        try:
            ray.init(address, log_to_driver=False, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"--address {address}: {' '.join(str(error).split())}") from error
        # Ray starts the task of a lost node or worker again, on another one.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1, max_calls=1)
        self._run = task(run)
        self._running: dict[Any, Job] = {}

    def start(self, job: Job) -> None:
        """Give ``job`` to Ray."""
        there = job._replace(folder=job.folder.resolve(), place=Path.cwd())
        self._running[self._run.remote(there)] = job

    def wait(self) -> tuple[Job, Failure | None]:
        """Wait for any job."""
        (done, *_), _ = self._ray.wait(list(self._running))
        job = self._running.pop(done)
        try:
            return job, self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            return job, Failure(f"    {error}", True)

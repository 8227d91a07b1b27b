"""Those who run the runs of a study: one after another, or side by side by Ray.

A run is ``pcvpt fit`` in a process and a folder of its own.
"""

import contextlib
import ctypes
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pcvpt.cli.main import main
from pcvpt.cli.studies.progress import STOPPED, Halving
from pcvpt.cli.studies.study import Run
from pcvpt.errors import UsageError
from pcvpt.runs.folder import CHECKPOINTS, finished_run, run_to_resume, tests_of

LOG = "sweep.log"
_SHOWN = 5  # last lines of the log of a run that failed
_REFUSED = 2  # exit status for bad input, which another try can't mend
_NO_BAR = "--trainer.enable_progress_bar=false"
_LOOK_SECONDS = 2.0  # between two looks at a run that may be stopped early


class Job(NamedTuple):
    """One run."""

    run: Run  # its configuration
    folder: Path  # its folder of runs
    stages: tuple[str, ...]  # that are tested
    place: Path = Path()  # working folder
    halving: Halving | None = None  # decides whether it is stopped early; None if never
    name: str = ""  # cell and seed, or what it tries, as a person reads them

    def finished(self) -> bool:
        """Return whether it is fitted and tested, or stopped early in a search."""
        if self.halving is not None and (self.folder / STOPPED).is_file():
            return True
        run = finished_run(self.folder)
        return run is not None and all(tests_of(path) for path in stages_of(run, self.stages))


class Failure(NamedTuple):
    """How a run failed: the last lines of its log, and whether another try may help."""

    lines: str
    may_pass: bool


def stages_of(run: Path, stages: tuple[str, ...]) -> dict[Path, tuple[str, str]]:
    """Return the checkpoints of ``stages`` in a finished run, with stage and budget of each.

    A run that condenses nothing has one stage, "trained".
    """
    stage_of = {"prompt": "trained", "masked": "condensed", "finetune": "finetuned"}
    found: dict[Path, tuple[str, str]] = {}
    for path in sorted((run / CHECKPOINTS).glob("*.ckpt")):
        phase, _, budget = path.stem.removesuffix("-last").partition("_")
        if phase in stage_of and not path.stem.endswith("-best"):
            found[path] = stage_of[phase], budget
    condenses = any(stage != "trained" for stage, _ in found.values())
    wanted = stages if condenses else ("trained",)
    return {path: (stage, budget) for path, (stage, budget) in found.items() if stage in wanted}


def execute(job: Job) -> Failure | None:
    """Fit and test ``job`` in a process of its own; what it prints goes to its log."""
    node = f"    {platform.node()}"
    if not job.place.is_dir():
        return Failure(f"{node} has no folder {job.place}; all nodes need the same folders", False)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        status = _call(job)
        if job.finished():
            return None
        text = (job.folder / LOG).read_text("utf-8", errors="replace")
    except OSError as error:  # such as a full disk
        return Failure(f"{node}: {error}", True)
    lines = [line for line in text.splitlines() if line.strip()][-_SHOWN:]
    return Failure("\n".join(f"    {line}" for line in lines), status != _REFUSED)


def fit_and_test(folder: Path, stages: tuple[str, ...], fit: Sequence[str]) -> None:
    """Fit the run in ``folder`` with the arguments ``fit`` and test its stages, in this process.

    What a start costs is paid once. A stage that has a test is not tested again.
    """
    if finished_run(folder) is None:
        main(["fit", *fit])
    run = finished_run(folder)
    for checkpoint in stages_of(run, stages) if run else ():
        if not tests_of(checkpoint):
            main(["test", str(run), "--ckpt_path", str(checkpoint), _NO_BAR])


def _call(job: Job) -> int:
    """Resume ``job``, or start it from the prompts of another run; return its exit status."""
    begin = ["--resume"]
    if job.run.start is not None and run_to_resume(job.folder) is None:
        start = finished_run(job.folder.parent / job.run.start.key)
        begin = ["--ckpt_path", f"{start}/{CHECKPOINTS}/prompt-last.ckpt"]
    place = ("--output_dir", str(job.folder.parent), "--name", job.folder.name)
    fit = [*job.run.arguments(), *place, *begin, _NO_BAR]
    what = json.dumps([str(job.folder), job.stages, fit])
    command = [sys.executable, "-m", "pcvpt.cli.studies.workers", what]
    with (job.folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=job.place,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_end_with_parent,
        )
    while job.halving is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOK_SECONDS)
        if job.halving.stops(job.folder):
            process.terminate()  # it saves its state before it ends
            process.wait()
            (job.folder / STOPPED).touch()
    return process.wait()


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

    ``address`` is that of a cluster; None starts Ray here. A job is run by ``run``, with ``cpus``
    cores and ``gpus`` GPUs, which may be a fraction. ``dashboard`` is the address of Ray's page, ""
    if it has none. A UsageError is raised if Ray is not installed, or the cluster does not answer.
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
            context: Any = ray.init(address, log_to_driver=False, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"--address {address}: {' '.join(str(error).split())}") from error
        self.dashboard = str(context.dashboard_url or "")
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


if __name__ == "__main__":
    _folder, _stages, _fit = json.loads(sys.argv[1])
    fit_and_test(Path(_folder), tuple(_stages), _fit)

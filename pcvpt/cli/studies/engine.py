"""Running all that is missing of a study. The folders of the runs are the truth: what they have is
not run again, whoever ran it.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from pcvpt.cli.studies.progress import STOPPED, Halving, epochs_of
from pcvpt.cli.studies.study import Run, Study, ValAccuracy
from pcvpt.cli.studies.workers import LOG, Failure, Job, OneByOne, OnRay
from pcvpt.runs.folder import RESULTS, finished_run, read_json

_LAST = ("accuracy_finetuned", "accuracy_masked", "accuracy_before")  # the first that a run has


@dataclass
class State:
    """How far a sweep is, by the keys of its runs."""

    jobs: dict[str, Job] = field(default_factory=dict)  # that are known by now
    # When those that have not ended were started, in seconds since 1970.
    since: dict[str, float] = field(default_factory=dict)
    # Those that ended well, with the stages that were tested: a candidate may be tested later.
    done: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)
    failures: dict[str, Failure] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Number of the known runs that ended well."""
        return sum((key, job.stages) in self.done for key, job in self.jobs.items())


def val_accuracy(pool: Path) -> ValAccuracy:
    """Return a function that reads the validation accuracy at the end of a run in ``pool``."""
    known: dict[str, float] = {}

    def read(run: Run, may_stop: bool = False) -> float | None:
        if run.key not in known:
            folder = finished_run(pool / run.key)
            if folder is None:
                stopped = may_stop and (pool / run.key / STOPPED).is_file()
                return -math.inf if stopped else None
            results = read_json(folder / RESULTS)
            ends = results.get("budgets", [results])  # of several budgets the mean
            known[run.key] = fmean(next(one[k] for k in _LAST if k in one) for one in ends)
        return known[run.key]

    return read


def spent_on(pool: Path, run: Run) -> tuple[float, float] | None:
    """Return what ``run`` took, without its tests; None while it is not finished.

    These are seconds, and multiply-accumulates of the forward passes on training images, NaN where
    they were not counted.
    """
    folder = finished_run(pool / run.key)
    if folder is None:
        return None
    results = read_json(folder / RESULTS)
    if run.start is not None:  # its prompts are those of another run
        del results["seconds_prompt"]
    entries = [results, *results.get("budgets", [])]
    seconds = [float(v) for one in entries for k, v in one.items() if k.startswith("seconds_")]
    macs = {("finetune", str(one.get("keep", ""))): one.get("macs", math.nan) for one in entries}
    macs["prompt", ""] = results.get("macs_all_prompts", math.nan)
    epochs = [macs.get((row["phase"], row["budget"]), math.nan) for row in epochs_of(folder.parent)]
    images = results.get("data", {}).get("images", {}).get("train", math.nan)
    return sum(seconds), images * sum(epochs)


def sweep(
    study: Study,
    pool: Path,
    workers: OneByOne | OnRay,
    tries: int,
    tell: Callable[[str], None],
    state: State | None = None,
) -> dict[str, Failure]:
    """Run all that is missing of ``study``; return the failures by the key of the run.

    ``pool`` has the folders of all runs, those of other studies too. A run that fails is started
    ``tries`` times. ``tell`` takes a line for each that starts, ends or fails, and ``state`` is
    kept up to date.
    """
    accuracy = val_accuracy(pool)
    tried: Counter[str] = Counter()
    state = State() if state is None else state
    while True:
        state.jobs = {job.run.key: job for job in _jobs(study, pool, accuracy)}
        for key, job in state.jobs.items():
            if key in state.since or key in state.failures or (key, job.stages) in state.done:
                continue
            parent = job.run.start
            if job.finished():
                state.done.add((key, job.stages))
            elif parent is not None and parent.key in state.failures:
                of = f"the run it starts from failed ({state.jobs[parent.key].name}, {parent.key})"
                state.failures[key] = Failure(f"    {of}", False)
                tell(f"FAILED  {job.name} ({key}): {of}")
            elif parent is None or finished_run(pool / parent.key) is not None:
                state.since[key] = time.time()
                tried[key] += 1
                again = f", try {tried[key]} of {tries}" * (tried[key] > 1)
                tell(f"start   {job.name} ({key}{again})")
                workers.start(job)
        if not state.since:
            return state.failures
        job, failure = workers.wait()
        key = job.run.key
        del state.since[key]
        if failure is None:
            state.done.add((key, job.stages))
            tell(f"done    {job.name} ({key}); {state.ended} of {len(state.jobs)} known so far")
        elif failure.may_pass and tried[key] < tries:
            tell(f"failed  {job.name} ({key}), is tried again")
        else:
            state.failures[key] = failure
            tell(f"FAILED  {job.name} ({job.folder / LOG}):\n{failure.lines}")


def _jobs(study: Study, pool: Path, accuracy: ValAccuracy) -> Iterator[Job]:
    """Yield each run that is known by now; candidates are not tested."""
    for cell in study.cells:
        candidates = cell.candidates(accuracy)
        rivals = tuple(pool / run.key for run in candidates.values())
        halving = Halving(cell.search.grace, rivals) if cell.search.grace else None
        for tried, run in candidates.items():
            options = " ".join(f"{key.split('.')[-1]}={value}" for key, value in tried)
            name = f"{cell.config}, {cell.name}, {options}"
            if run.start is not None:  # it is no run of the table where `final` has options
                yield Job(run.start, pool / run.start.key, (), name=f"start of {name}")
            yield Job(run, pool / run.key, (), halving=halving, name=name)
    for cell in study.cells:
        for seed, run in cell.runs(accuracy).items():
            name = f"{cell.config}, {cell.name}, seed {seed}"
            yield Job(run, pool / run.key, cell.stages, name=name)

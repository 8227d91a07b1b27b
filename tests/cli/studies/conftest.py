"""A study on disk, and results of its runs as ``pcvpt fit`` and ``pcvpt test`` leave them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pcvpt.cli.studies.study import Study
from pcvpt.cli.studies.study_file import read_study
from pcvpt.cli.studies.workers import Failure, Job

Written = Callable[..., Study]


@pytest.fixture
def study(tmp_path: Path) -> Written:
    """Write a study and read it."""

    def write(name: str = "mine", **content: Any) -> Study:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_study(path)

    return write


def finish(
    job: Job, accuracy: float, test: float | None = None, stages: tuple[str, ...] = ("prompt-last",)
) -> None:
    """Leave in the folder of ``job`` what a finished run has; accuracies in percent."""
    run = job.folder / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    for stage in stages:
        (run / "checkpoints" / f"{stage}.ckpt").touch()
        if test is not None:
            (run / f"test-{stage}.json").write_text(json.dumps({"test/accuracy": test / 100}))
    (run / "config.yaml").touch()
    results = {"accuracy_before": accuracy, "prompts": 120, "macs_all_prompts": 34.1e6}
    (run / "results.json").write_text(json.dumps(results))


class Made:
    """Workers that leave the accuracies which ``of`` gives, by the options of a run.

    ``of`` returns validation and test accuracy, or a failure.
    """

    def __init__(self, of: Callable[[dict[str, Any]], tuple[float, float] | Failure]) -> None:
        self.of, self.waiting, self.started = of, list[Job](), list[Job]()

    def start(self, job: Job) -> None:
        self.waiting.append(job)
        self.started.append(job)

    def wait(self) -> tuple[Job, Failure | None]:
        job = self.waiting.pop()
        found = self.of(dict(job.run.options))
        if isinstance(found, Failure):
            return job, found
        finish(job, *found)
        return job, None

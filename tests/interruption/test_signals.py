"""A run that is asked to end saves after its step, says so, and goes on from there bit for bit."""

import os
import signal
import subprocess
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt import PromptTuner
from pcvpt.runs import signals

from .conftest import Runs, differences

pytestmark = pytest.mark.timeout(200)


def send_at(where: str, call: int, *numbers: int) -> None:
    """Send signals to this process at a call of a method, ``module:Class.name``, counted from 1."""
    module, _, name = where.partition(":")
    owner_name, last = name.split(".")
    owner = getattr(import_module(module), owner_name)
    original, calls = getattr(owner, last), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, last, counted)


STEP = "pcvpt.training.module:PromptTuner.training_step"
MOMENTS = {
    "amid an epoch": (STEP, 9, "prompt-last", 1, 3),
    "in the last step of an epoch": (STEP, 12, "prompt-last", 2, 0),
    "in validation": ("pcvpt.training.module:PromptTuner.validation_step", 3, "prompt-last", 2, 0),
    "in fine-tuning": (STEP, 33, "finetune_0.3-last", 5, 3),
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        *((moment, signal.SIGTERM) for moment in MOMENTS),
        ("amid an epoch", signal.SIGUSR1),
        ("amid an epoch", signal.SIGINT),
    ],
)
def test_a_run_that_is_asked_to_end_saves_and_goes_on(
    runs: Runs, whole: dict[str, Any], moment: str, number: int
) -> None:
    name = f"{moment} {number}".replace(" ", "-")
    where, call, stage, epochs, batches = MOMENTS[moment]
    status = runs.finish(name, sabotage=partial(send_at, where, call, number))
    said = runs.said(name)
    assert status == 128 + number, said
    assert "Saved; the same command with --resume continues from here." in said
    assert "Traceback" not in said
    saved = torch.load(
        runs.folder / name / "version_0" / "checkpoints" / f"{stage}.ckpt", weights_only=True
    )
    loop = saved["loops"]["fit_loop"]
    assert loop["epoch_progress"]["current"]["processed"] == epochs
    if batches:
        assert loop["epoch_loop.batch_progress"]["current"]["processed"] == batches
    assert runs.finish(name, "--resume") == 0, runs.said(name)
    assert differences(whole, runs.outcome(name)) == []


def test_a_run_that_is_asked_to_end_while_it_scores_ends_at_once(
    runs: Runs, whole: dict[str, Any]
) -> None:
    name, condense = "scoring", "pcvpt.callbacks.condensation:PromptCondensation.condense"
    status = runs.finish(name, sabotage=partial(send_at, condense, 1, signal.SIGTERM))
    assert status == 143, runs.said(name)
    assert not list((runs.folder / name).rglob("masked*.ckpt"))
    assert runs.finish(name, "--resume") == 0, runs.said(name)
    assert differences(whole, runs.outcome(name)) == []


def test_a_second_interrupt_from_the_keyboard_ends_at_once(runs: Runs) -> None:
    status = runs.finish("twice", sabotage=partial(send_at, STEP, 9, *[signal.SIGINT] * 2))
    assert status == 1
    assert "Saved;" not in runs.said("twice")


def _fake_scontrol(folder: Path, status: int) -> Path:
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\necho "no" >&2\nexit {status}\n')
    script.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("environment", "number", "asked"),
    [
        ({"SLURM_JOB_ID": "12"}, signal.SIGUSR1, "requeue 12\n"),
        (
            {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"},
            signal.SIGUSR1,
            "requeue 9_3\n",
        ),
        ({"SLURM_JOB_ID": "12"}, signal.SIGTERM, None),
        ({"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "bash"}, signal.SIGUSR1, None),
        ({}, signal.SIGUSR1, None),
    ],
)
def test_slurm_is_asked_to_requeue_a_batch_job_that_it_warned(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    number: int,
    asked: str | None,
) -> None:
    for name in "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_NAME":
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = _fake_scontrol(tmp_path / "bin", 0)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    said = signals.requeue(number)
    found = (folder / "asked").read_text() if (folder / "asked").exists() else None
    assert found == asked
    assert (said is None) == (asked is None)


def test_a_requeue_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("SLURM_JOB_NAME", raising=False)
    monkeypatch.setenv("PATH", str(_fake_scontrol(tmp_path / "bin", 1)))
    assert signals.requeue(signal.SIGUSR1) == "job 12 could not be requeued (no)"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "could not be requeued" in str(signals.requeue(signal.SIGUSR1))


def test_a_job_under_slurm_is_requeued_after_it_has_saved(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = _fake_scontrol(tmp_path / "bin", 0)

    status = runs.finish("slurm", sabotage=partial(_as_job_that_steps, str(folder)))
    assert status == 128 + signal.SIGUSR1, runs.said("slurm")
    assert "SLURM: job 12 was requeued" in runs.said("slurm")
    assert (folder / "asked").read_text() == "requeue 12\n"


def _as_job(folder: str) -> None:
    os.environ |= {
        **{"SLURM_JOB_ID": "12", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"},
        **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
        "PATH": f"{folder}:{os.environ['PATH']}",
    }


def _as_job_that_steps(folder: str) -> None:
    _as_job(folder)
    send_at(STEP, 9, signal.SIGUSR1)


def test_a_job_is_requeued_while_it_scores_too(
    runs: Runs, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = _fake_scontrol(tmp_path / "bin", 0)
    sabotage = partial(_as_job_that_scores, str(folder))
    assert runs.finish("slurm-scores", sabotage=sabotage) == 128 + signal.SIGUSR1
    assert (folder / "asked").read_text() == "requeue 12\n"
    assert "continues from here. SLURM: job 12 was requeued." in runs.said("slurm-scores")
    assert runs.finish("slurm-scores", "--resume") == 0
    assert differences(whole, runs.outcome("slurm-scores")) == []


def _as_job_that_scores(folder: str) -> None:
    _as_job(folder)
    send_at("pcvpt.callbacks.condensation:PromptCondensation.condense", 1, signal.SIGUSR1)


def _lose_readers_at(call: int) -> None:
    """Have the pipe that the output goes to lose its reader, as Ctrl-C ends a ``tee``."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)
    step, calls = PromptTuner.training_step, []

    def interrupted(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.close(reader)
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    PromptTuner.training_step = interrupted  # type: ignore[method-assign]


def test_output_that_nobody_reads_any_more_does_not_keep_a_run_from_saving(
    runs: Runs, whole: dict[str, Any]
) -> None:
    bar = "--trainer.enable_progress_bar=true"
    status = runs.finish("pipe", bar, sabotage=partial(_lose_readers_at, 9))
    assert status == 128 + signal.SIGINT
    last = runs.folder / "pipe" / "version_0" / "checkpoints" / "prompt-last.ckpt"
    loop = torch.load(last, weights_only=True)["loops"]["fit_loop"]
    assert loop["epoch_loop.batch_progress"]["current"]["processed"] == 3
    assert runs.finish("pipe", bar, "--resume") == 0, runs.said("pipe")
    assert differences(whole, runs.outcome("pipe")) == []


def _to_all_at(call: int, number: int) -> None:
    """Send a signal to this process and its workers, as a terminal or a scheduler does."""
    os.setsid()
    step, calls = PromptTuner.training_step, []

    def signalling(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            kill = ["kill", f"-{int(number)}", "--", f"-{os.getpgid(0)}"]
            subprocess.run(kill, check=True, start_new_session=True)
            time.sleep(0.5)  # so that workers have died of it, if they do
        return step(self, *args)

    PromptTuner.training_step = signalling  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_workers_too_loses_nothing(
    runs: Runs, whole: dict[str, Any], number: int
) -> None:
    name = f"group-{number}"
    status = runs.finish(name, "--data.num_workers=2", sabotage=partial(_to_all_at, 9, number))
    assert status == 128 + number, runs.said(name)
    assert "Traceback" not in runs.said(name)
    last = runs.folder / name / "version_0" / "checkpoints" / "prompt-last.ckpt"
    loop = torch.load(last, weights_only=True)["loops"]["fit_loop"]
    assert loop["epoch_loop.batch_progress"]["current"]["processed"] == 3
    assert runs.finish(name, "--data.num_workers=2", "--resume") == 0, runs.said(name)
    assert differences(whole, runs.outcome(name)) == []

"""A run that is asked to end saves after its step, says so, and resumes bit for bit."""

import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import SAVED
from commands.callbacks import at, interrupt_without_readers, send, send_to_group
from rich.console import Console
from rich.live import Live

from pcvpt.runs import signals

from .conftest import Interrupted

STEP = "on_train_batch_start"
SLOW = pytest.mark.slow
MOMENTS = {  # with the checkpoint that is saved last, its epochs, and batches of the next epoch
    "in-an-epoch": (STEP, 9, "prompt-last", 1, 3),
    "in-the-last-step": (STEP, 12, "prompt-last", 2, 0),
    "in-validation": ("on_validation_batch_start", 3, "prompt-last", 2, 0),
    "in-fine-tuning": (STEP, 33, "finetune_0.3-last", 5, 3),
}


def _check_saved(runs: Interrupted, name: str, stage: str, epochs: int, batches: int) -> None:
    loop = runs.checkpoint(name, stage)["loops"]["fit_loop"]
    assert loop["epoch_progress"]["current"]["processed"] == epochs
    if batches:
        assert loop["epoch_loop.batch_progress"]["current"]["processed"] == batches


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("in-an-epoch", signal.SIGTERM),
        *(pytest.param(m, signal.SIGTERM, marks=SLOW) for m in list(MOMENTS)[1:]),
        pytest.param("in-an-epoch", signal.SIGUSR1, marks=SLOW),
        pytest.param("in-an-epoch", signal.SIGINT, marks=SLOW),
    ],
)
def test_a_run_that_is_asked_to_end_saves_and_resumes(
    runs: Interrupted, moment: str, number: int
) -> None:
    name, (hook, call, *saved) = f"{moment}-{number}", MOMENTS[moment]
    assert runs.finish(name, fault=at(hook, call, send, number)) == 128 + number, runs.said(name)
    assert SAVED in runs.said(name)
    assert "Traceback" not in runs.said(name)
    _check_saved(runs, name, *saved)
    runs.resume(name)


@SLOW
def test_a_run_that_is_asked_to_end_while_it_scores_ends_at_once(runs: Interrupted) -> None:
    fault = at("scoring", 1, send, signal.SIGTERM)
    assert runs.finish("scoring", fault=fault) == 143, runs.said("scoring")
    assert not list((runs.folder / "scoring").rglob("masked*.ckpt"))
    runs.resume("scoring")


def test_a_second_interrupt_from_the_keyboard_ends_at_once(runs: Interrupted) -> None:
    assert runs.finish("twice", fault=at(STEP, 9, send, signal.SIGINT, signal.SIGINT)) == 1
    assert SAVED not in runs.said("twice")


JOB = {"SLURM_JOB_ID": "12"}
ARRAY = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}
SLURM = ("SLURM_JOB_ID", "SLURM_JOB_NAME", *ARRAY)


def _fake_scontrol(folder: Path, status: int = 0) -> dict[str, str]:
    """Return the environment in which ``scontrol`` writes its arguments to ``folder/asked``."""
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\necho "no" >&2\nexit {status}\n')
    script.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def _requeue(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], number: int) -> Any:
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return signals.requeue(number)


@pytest.mark.parametrize(
    ("environment", "number", "asked"),
    [
        (JOB, signal.SIGUSR1, "requeue 12\n"),
        (JOB | ARRAY, signal.SIGUSR1, "requeue 9_3\n"),
        (JOB, signal.SIGTERM, None),
        (JOB | {"SLURM_JOB_NAME": "bash"}, signal.SIGUSR1, None),
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
    said = _requeue(monkeypatch, environment | _fake_scontrol(tmp_path), number)
    file = tmp_path / "asked"
    assert (file.read_text() if file.exists() else None) == asked
    assert (said is None) == (asked is None)


def test_a_requeue_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = JOB | _fake_scontrol(tmp_path, 1)
    said = _requeue(monkeypatch, failing, signal.SIGUSR1)
    assert "12" in said
    assert "(no)" in said  # what scontrol says
    nowhere = JOB | {"PATH": str(tmp_path / "nowhere")}
    assert "12" in _requeue(monkeypatch, nowhere, signal.SIGUSR1)


@pytest.mark.parametrize("moment", [(STEP, 9), pytest.param(("scoring", 1), marks=SLOW)])
def test_a_job_under_slurm_is_requeued_after_it_has_saved(
    runs: Interrupted, tmp_path: Path, moment: tuple[str, int]
) -> None:
    name = f"slurm-{moment[0]}"
    job = JOB | {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
    job |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0"} | _fake_scontrol(tmp_path)
    fault = job | at(*moment, send, signal.SIGUSR1)
    assert runs.finish(name, fault=fault) == 128 + signal.SIGUSR1, runs.said(name)
    assert SAVED in runs.said(name)
    assert "SLURM: job 12" in runs.said(name)
    assert (tmp_path / "asked").read_text() == "requeue 12\n"
    if moment[0] == "scoring":
        runs.resume(name)


def test_output_that_nobody_reads_any_more_does_not_keep_a_run_from_saving(
    runs: Interrupted,
) -> None:
    bar = "--trainer.enable_progress_bar=true"
    fault = at(STEP, 9, interrupt_without_readers)
    assert runs.finish("pipe", bar, fault=fault) == 128 + signal.SIGINT
    _check_saved(runs, "pipe", "prompt-last", 1, 3)
    runs.resume("pipe", bar)


@SLOW
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_workers_too_loses_nothing(runs: Interrupted, number: int) -> None:
    name, workers = f"group-{number}", "--data.num_workers=2"
    status = runs.finish(name, workers, fault=at(STEP, 9, send_to_group, number))
    assert status == 128 + number, runs.said(name)
    assert "Traceback" not in runs.said(name)
    _check_saved(runs, name, "prompt-last", 1, 3)
    runs.resume(name, workers)


def test_what_is_told_stands_above_a_display_that_moves() -> None:
    screen = io.StringIO()
    with Live("shown", console=Console(file=screen, force_terminal=True), auto_refresh=False):
        signals._print("the run ends")
    assert "the run ends" in screen.getvalue()

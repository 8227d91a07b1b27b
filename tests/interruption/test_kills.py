"""A run that is killed at any moment, and resumed, ends as the one that was not: bit for bit."""

import os
import random
import signal
import time
from functools import partial
from importlib import import_module
from typing import Any

import pytest

from .conftest import Runs, differences


def die_at(where: str, call: int, before: bool = True) -> None:
    """Have this process killed at a call of a function, given as ``module:name``, counted from 1.

    Args:
        where: the function.
        call: the number of the call.
        before: kill before the function is run, not after.
    """
    module, _, name = where.partition(":")
    *owners, last = name.split(".")
    owner: Any = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original, calls = getattr(owner, last), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if before and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if not before and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, last, counted)


MOMENTS = {
    "before the first checkpoint": ("pcvpt.training.module:PromptTuner.training_step", 3),
    "amid prompt training": ("pcvpt.training.module:PromptTuner.training_step", 10),
    "amid validation": ("pcvpt.training.module:PromptTuner.validation_step", 4),
    "amid writing a checkpoint": ("pcvpt.runs.atomic:os.fsync", 5),
    "before a checkpoint is put in its place": ("pcvpt.runs.atomic:os.replace", 6),
    "amid scoring": ("pcvpt.condensation.scoring:_gate_gradient", 3),
    "amid the change of phase": ("pcvpt.training.module:PromptTuner.start_finetuning", 2),
    "amid fine-tuning": ("pcvpt.training.module:PromptTuner.training_step", 22),
    "between two budgets": ("pcvpt.callbacks.condensation:PromptCondensation._finish", 1),
    "after the last epoch": ("pcvpt.callbacks.condensation:PromptCondensation._conclude", 1),
    "while the results are written": ("pcvpt.callbacks.summary:write_json", 1),
}


def _name(text: str) -> str:
    return text.replace(" ", "-")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_a_certain_moment_ends_as_if_it_had_not_been(
    runs: Runs, whole: dict[str, Any], moment: str
) -> None:
    name = _name(moment)
    assert runs.finish(name, "--resume", sabotage=partial(die_at, *MOMENTS[moment])) == -9
    assert runs.finish(name, "--resume") == 0, runs.said(name)
    assert differences(whole, runs.outcome(name)) == []


@pytest.mark.timeout(300)
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(
    runs: Runs, whole: dict[str, Any]
) -> None:
    dies = partial(die_at, "pcvpt.training.module:PromptTuner.training_step", 16)
    deaths = 0
    while (status := runs.finish("again", "--resume", often=True, sabotage=dies)) == -9:
        deaths += 1
    assert status == 0, runs.said("again")
    assert deaths == 3  # of 42 steps, 12 are saved each time
    assert differences(whole, runs.outcome("again")) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_forty_kills_at_random_moments_change_nothing(runs: Runs, whole: dict[str, Any]) -> None:
    moments = random.Random(0)
    started = time.monotonic()
    assert runs.finish("timed") == 0
    length = time.monotonic() - started
    equal = []
    for number in range(40):
        name, often = f"random-{number}", number % 2 == 1
        process = runs.start(name, "--resume", often=often)
        process.join(moments.uniform(0, length))
        process.kill()
        process.join()
        assert runs.finish(name, "--resume", often=often) == 0, runs.said(name)
        equal.append(differences(whole, runs.outcome(name)) == [])
        print(f"{number + 1}: {runs.said(name).count('Going on from')} gone on, equal {equal[-1]}")
    assert equal == [True] * 40

"""A run that is killed at any moment, and resumed, ends as the one that was not: bit for bit."""

import random

import pytest
from commands import LIMIT
from commands.callbacks import at, kill

from .conftest import Interrupted

STEP = "on_train_batch_start"
SLOW = pytest.mark.slow
MOMENTS = {
    "before-the-first-checkpoint": (STEP, 3),
    "in-prompt-training": (STEP, 10),
    "in-validation": ("on_validation_batch_start", 4),
    "writing-a-checkpoint": ("os.fsync", 5),
    "replacing-a-checkpoint": ("os.replace prompt-last.ckpt", 2),
    "in-scoring": ("scoring", 3),
    "in-the-change-of-phase": ("on_prompts_masked", 2),
    "in-fine-tuning": (STEP, 22),
    "between-two-budgets": ("on_train_epoch_end", 5),
    "after-the-last-epoch": ("on_train_end", 1),
    "writing-the-results": ("os.replace results.json", 1),
}
FAST = ("replacing-a-checkpoint", "in-fine-tuning")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[SLOW] * (n not in FAST)) for n in MOMENTS])
def test_a_run_killed_at_a_certain_moment_ends_as_if_it_had_not_been(
    runs: Interrupted, name: str
) -> None:
    assert runs.finish(name, "--resume", fault=at(*MOMENTS[name], kill)) == -9
    runs.resume(name)


@SLOW
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(runs: Interrupted) -> None:
    options = {"often": True, "fault": at(STEP, 16, kill)}
    for _ in range(3):  # of 42 steps, 12 are saved each time
        assert runs.finish("again", "--resume", **options) == -9
    runs.resume("again", **options)


@SLOW
def test_forty_kills_at_random_moments_change_nothing(runs: Interrupted) -> None:
    moments = random.Random(0)
    for number in range(40):
        name, often = f"random-{number}", number % 2 == 1
        process = runs.start(name, "--resume", often=often)
        process.join(moments.uniform(0, 5))  # about the time of a run
        process.kill()
        process.join(LIMIT)
        runs.resume(name, often=often)

"""Two processes that are killed, or asked to end, resume as if nothing had happened."""

import signal
from collections.abc import Callable

import pytest
from commands import SAVED, differences, ended, leaves
from commands.callbacks import at, kill_group, send, send_to_group

from .conftest import Interrupted

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def pair(runs: Interrupted) -> Callable[..., str]:
    """Return what starts or resumes a run on two processes, and returns what it has printed."""
    options = ("--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=4")
    options += ("--trainer.log_every_n_steps=2", "--resume")

    def run(name: str, status: int = 0, **fault: str) -> str:
        process = runs.launch(runs.arguments(name, ("run", "often"), *options), **fault)
        return ended(process, expected=status)[0]

    run("pair")
    return run


def _check_same(runs: Interrupted, name: str) -> None:
    one, two = (
        leaves(runs.checkpoint(run, "finetune_0.3-last")["state_dict"], "state")
        for run in ("pair", name)
    )
    assert differences(one, two) == []


@pytest.mark.parametrize(
    ("moment", "call"),
    [("on_train_batch_start", 10), ("on_prompts_masked", 1), ("on_train_epoch_end", 5)],
)
def test_two_processes_that_are_killed_resume(
    runs: Interrupted, pair: Callable[..., str], moment: str, call: int
) -> None:
    name = f"killed-{moment}"
    pair(name, -signal.SIGKILL, **at(moment, call, kill_group))
    assert not (runs.run_folder(name) / "results.json").exists()
    pair(name)
    _check_same(runs, name)


@pytest.mark.parametrize("action", [send, send_to_group])
def test_two_processes_that_are_asked_to_end_save_together(
    runs: Interrupted, pair: Callable[..., str], action: Callable[..., None]
) -> None:
    name = f"asked-{action.__name__}"
    fault = at("on_train_batch_start", 10, action, signal.SIGTERM)
    said = pair(name, 128 + signal.SIGTERM, **fault)
    assert said.count(SAVED) == 1
    assert "Traceback" not in said, said
    pair(name)
    _check_same(runs, name)

"""Two nodes, each with a process, started by torchrun on one machine; and the loss of a process."""

import os
import signal
import subprocess

import pytest
from commands import LIMIT, SAVED, ended, free_port
from commands.callbacks import at, kill, run_out_of_memory, send

from .conftest import DDP, RankedRuns

pytestmark = pytest.mark.slow

LOST = "pcvpt: error: another process of this run"
NODES = ("--trainer.strategy=ddp", "--trainer.num_nodes=2", "--trainer.devices=1")
STEP = "on_train_batch_start"


def _start_nodes(
    runs: RankedRuns, arguments: list[str], **environment: str
) -> list[subprocess.Popen[str]]:
    launcher = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1")
    where = ("--master_addr=127.0.0.1", f"--master_port={free_port()}")
    return [
        runs.launch(arguments, *launcher, f"--node_rank={rank}", *where, **environment)
        for rank in range(2)
    ]


def test_two_nodes_end_with_what_one_process_ends_with(runs: RankedRuns) -> None:
    configs, keep = ("vit", "adamw"), "--condense.keep=0.1"
    both = runs.ranked("both", configs, keep, "--data.batch_size=8", *NODES)
    said = ended(*_start_nodes(runs, both))
    assert sum(text.count("Result on ") for text in said) == 1
    one = runs.here("one", configs, keep, "--data.batch_size=16")
    assert (one["keep"].sum(1) == 0).any()  # a block without prompts keeps nobody waiting
    runs.check("both", 2, one)
    assert runs.run_folder("both").name == "version_0"


@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_one_process_ends_the_other(runs: RankedRuns, rank: int) -> None:
    arguments = runs.ranked("both", ("vit",), "--data.batch_size=8", *DDP)
    (said,) = ended(runs.launch(arguments, **at(STEP, 3, kill, rank=rank)), expected=None)
    # Where the first is left, Lightning may end it before it notices by itself.
    assert LOST in said or rank == 1
    assert not list((runs.folder / "both").rglob("results.json"))


def test_a_process_that_stops_is_not_waited_for_longer_than_the_time_limit(
    runs: RankedRuns,
) -> None:
    options = ("--data.batch_size=8", "--trainer.devices=2")
    arguments = runs.ranked("both", ("vit", "impatient"), *options)
    process = runs.launch(arguments, **at(STEP, 3, send, signal.SIGSTOP, rank=1))
    try:
        assert process.wait(LIMIT) == 2
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # what is stopped can't end by itself
    assert LOST in process.communicate()[0]


def test_the_death_of_a_process_on_one_node_ends_the_other_node(runs: RankedRuns) -> None:
    arguments = runs.ranked("both", ("vit",), "--data.batch_size=8", *NODES)
    nodes = _start_nodes(runs, arguments, **at(STEP, 3, kill, rank=1))
    assert LOST in ended(*nodes, expected=None)[0]
    assert not list((runs.folder / "both").rglob("results.json"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_processes_saves_and_both_resume(
    runs: RankedRuns, rank: int
) -> None:
    options = ("--data.batch_size=8", "--trainer.log_every_n_steps=1", *DDP)
    arguments = runs.ranked("both", ("vit",), *options)
    fault = at(STEP, 6, send, signal.SIGTERM, rank=rank)
    (said,) = ended(runs.launch(arguments, **fault), expected=128 + signal.SIGTERM)
    assert said.count(SAVED) == 1
    ended(runs.launch([*arguments, "--resume"]))
    runs.check("both", 2, runs.here("one", ("vit",), "--data.batch_size=16"))
    assert runs.run_folder("both").name == "version_0"


def test_want_of_memory_on_one_process_ends_both_and_says_so(runs: RankedRuns) -> None:
    arguments = runs.ranked("both", ("vit",), "--data.batch_size=8", *DDP)
    fault = at("scoring", 0, run_out_of_memory, 0, rank=1)
    (said,) = ended(runs.launch(arguments, **fault), expected=None)
    assert "pcvpt: error: not enough memory to score the prompts" in said

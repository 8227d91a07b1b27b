"""Two nodes, each with a process, started by torchrun on one machine; and the loss of a process."""

import os
import signal
import subprocess

import pytest
import torch

from .conftest import DDP, Runs, assert_close, ended, free_port

pytestmark = pytest.mark.timeout(400)

LOST = "pcvpt: error: another process of this run has ended or can't be reached"
NODES = ("--trainer.strategy=ddp", "--trainer.num_nodes=2", "--trainer.devices=1")


def _signalled(rank: int, number: int, step: int = 3) -> tuple[str, ...]:
    numbers = {"rank": rank, "number": int(number), "step": step}
    options = (f"--trainer.callbacks.{name}={value}" for name, value in numbers.items())
    return ("--trainer.callbacks+", "devices.ranks.Signalled", *options)


def _start_nodes(runs: Runs, arguments: list[str]) -> list[subprocess.Popen[str]]:
    launcher = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1")
    where = ("--master_addr=127.0.0.1", f"--master_port={free_port()}")
    return [runs.start(arguments, *launcher, f"--node_rank={rank}", *where) for rank in range(2)]


def test_two_nodes_end_with_what_one_process_ends_with(runs: Runs) -> None:
    options = ("--condense.keep=0.1", "--data.batch_size=8")
    nodes = _start_nodes(runs, runs.arguments("both", ("vit", "adamw"), *options, *NODES))
    said = [ended(node) for node in nodes]
    assert sum(out.count("Result on the validation images") for out, _ in said) == 1
    runs.here(runs.arguments("one", ("vit", "adamw"), options[0], "--data.batch_size=16"))
    (one,) = runs.ranks("one", 1)
    assert (one["keep"].sum(1) == 0).any()  # a block without prompts keeps nobody waiting
    for rank in runs.ranks("both", 2):
        assert torch.equal(rank["keep"], one["keep"])
        assert_close(rank, one)
    assert runs.only_folder("both").name == "version_0"
    assert runs.results("both") == runs.results("one")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_one_process_ends_the_other(runs: Runs, rank: int) -> None:
    killed = _signalled(rank, signal.SIGKILL)
    arguments = runs.arguments("both", ("vit",), "--data.batch_size=8", *DDP, *killed)
    _, err = runs.finish(arguments, expected=None)
    # Where the first is left, Lightning may end it before it notices by itself.
    assert LOST in err or rank == 1
    assert not list((runs.folder / "both").rglob("results.json"))


@pytest.mark.slow
def test_a_process_that_stops_is_not_waited_for_longer_than_the_time_limit(runs: Runs) -> None:
    options = ("--data.batch_size=8", "--trainer.devices=2", *_signalled(1, signal.SIGSTOP))
    process = runs.start(runs.arguments("both", ("vit", "impatient"), *options))
    try:
        assert process.wait(150) == 2
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # what is stopped can't end by itself
    assert LOST in process.communicate()[1]


@pytest.mark.slow
def test_the_death_of_a_process_on_one_node_ends_the_other_node(runs: Runs) -> None:
    killed = _signalled(1, signal.SIGKILL)
    nodes = _start_nodes(
        runs, runs.arguments("both", ("vit",), "--data.batch_size=8", *NODES, *killed)
    )
    said = [ended(node, expected=None) for node in nodes]
    assert LOST in said[0][1]
    assert not list((runs.folder / "both").rglob("results.json"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_processes_saves_and_both_go_on(runs: Runs, rank: int) -> None:
    options = ("--data.batch_size=8", "--trainer.log_every_n_steps=1", *DDP)
    number = signal.SIGTERM
    arguments = [*runs.arguments("both", ("vit",), *options), *_signalled(rank, number, step=6)]
    _, err = runs.finish(arguments, 128 + number)
    assert err.count("Saved; the same command with --resume continues from here.") == 1
    runs.finish([*arguments, "--resume"])
    runs.here(runs.arguments("one", ("vit",), "--data.batch_size=16"))
    for found in runs.ranks("both", 2):
        assert_close(found, runs.ranks("one", 1)[0])
    assert runs.only_folder("both").name == "version_0"


@pytest.mark.slow
def test_want_of_memory_on_one_process_ends_both_and_says_so(runs: Runs) -> None:
    short = ("--trainer.callbacks+", "devices.ranks.ShortOfMemory")
    short += ("--trainer.callbacks.rank=1", "--trainer.callbacks.images=0")
    arguments = runs.arguments("both", ("vit",), "--data.batch_size=8", *DDP, *short)
    _, err = runs.finish(arguments, expected=None)
    assert "pcvpt: error: not enough memory to score the prompts, even with one image" in err

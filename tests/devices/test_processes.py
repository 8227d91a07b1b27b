"""Two processes on the CPU do what one does with the same global batch."""

import json
import subprocess

import pytest
import torch
from commands import ended
from commands.callbacks import at, run_out_of_memory

from .conftest import DDP, RankedRuns, assert_close

SLOW = pytest.mark.slow
STAGES = {  # with the number of prompts kept of 36
    "prompt-last": 36,
    **{"masked_0.3": 11, "finetune_0.3-last": 11},
    **{"masked_0.1": 4, "finetune_0.1-last": 4},
}


@SLOW
def test_two_processes_keep_and_learn_what_one_does_for_each_budget(runs: RankedRuns) -> None:
    keep = "--condense.keep=[0.3,0.1]"
    (said,) = ended(runs.launch(runs.ranked("both", (), keep, "--data.batch_size=8", *DDP)))
    assert "distributed_backend=gloo" in said
    assert said.count("Result on ") == 1
    runs.here("one", (), keep, "--data.batch_size=16")
    for stage, kept in STAGES.items():
        one, both = (runs.checkpoint(name, stage)["state_dict"] for name in ("one", "both"))
        assert int(one["model.prompts.keep"].sum()) == kept
        assert_close(one, both)


@pytest.mark.parametrize(
    ("configs", "keep", "accumulated"),
    [
        (("swin",), 0.3, 2),
        pytest.param(("vit", "adamw"), 0.1, 1, marks=SLOW),
        pytest.param(("vit",), 0.3, 1, marks=SLOW),
        pytest.param(("vit", "adamw"), 0.3, 2, marks=SLOW),
        pytest.param(("swin", "adamw"), 0.1, 1, marks=SLOW),
    ],
)
def test_two_processes_end_with_what_one_ends_with(
    runs: RankedRuns, configs: tuple[str, ...], keep: float, accumulated: int
) -> None:
    """Also where a block keeps no prompt, and is not waited for in the backward pass."""
    options = (f"--condense.keep={keep}", f"--trainer.accumulate_grad_batches={accumulated}")
    ended(runs.launch(runs.ranked("both", configs, *options, "--data.batch_size=8", *DDP)))
    one = runs.here("one", configs, *options, "--data.batch_size=16")
    assert int(one["keep"].sum()) == round(keep * one["keep"].numel())
    if keep == 0.1:
        assert (one["keep"].sum(1) == 0).any()
    runs.check("both", 2, one)
    assert runs.results("both")["kept"] == one["keep"].sum(1).tolist()


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=SLOW), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_runs_that_share_a_device_end_with_what_one_ends_with_alone(
    runs: RankedRuns, device: str
) -> None:
    options = (f"--trainer.accelerator={device}", "--trainer.deterministic=true")

    def start(name: str) -> "subprocess.Popen[str]":
        return runs.launch(runs.ranked(name, (), *options), CUDA_VISIBLE_DEVICES="0")

    ended(start("one"))
    together = ("a", "b", "c")
    ended(*(start(name) for name in together))
    for name in together:
        for own, one in zip(runs.ranks(name, 1), runs.ranks("one", 1), strict=True):
            assert own.keys() == one.keys()
            assert all(torch.equal(own[key], one[key]) for key in one)
        if device == "cuda":  # what it needs itself, not what all need
            memory = [
                json.loads((runs.run_folder(run) / "results.json").read_text())["peak_memory_mb"]
                for run in (name, "one")
            ]
            assert memory[0] <= 1.1 * memory[1]


def test_two_processes_start_from_the_tokens_that_one_starts_from(runs: RankedRuns) -> None:
    still = ("--model.prompt.base_lr=0", "--condense.prompt_epochs=1", "--condense.keep=null")
    options = (*still, "--model.prompt_init=tokens", "--trainer.limit_train_batches=1")
    ended(runs.launch(runs.ranked("both", ("vit",), *options, "--data.batch_size=8", *DDP)))
    one = runs.here("one", ("vit",), *options, "--data.batch_size=16")
    first, second = runs.ranks("both", 2)
    assert torch.equal(first["model.prompts.values"], second["model.prompts.values"])
    assert_close(first, one)


def test_merged_prompts_are_the_same_on_both_processes_before_and_after_training(
    runs: RankedRuns,
) -> None:
    """They are new parameters: if they were not averaged, the processes would part."""
    options = ("--condense.method=merge", "--condense.keep=[0.3,0.1]", "--data.batch_size=8")
    ended(runs.launch(runs.ranked("both", ("vit", "adamw"), *options, *DDP)))
    first, second = runs.ranks("both", 2)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True)
    before, after = (
        runs.checkpoint("both", stage)["state_dict"]
        for stage in ("masked_0.1", "finetune_0.1-last")
    )
    assert int(after["model.prompts.keep"].sum()) == 2  # of 24
    assert torch.equal(before["model.prompts.log_weight"], after["model.prompts.log_weight"])
    assert not torch.equal(before["model.prompts.values"], after["model.prompts.values"])


@SLOW
def test_a_test_on_three_processes_counts_each_image_once(runs: RankedRuns) -> None:
    runs.here("run", ("vit",), "--trainer.limit_train_batches=1")
    run = runs.run_folder("run")
    test = ["test", str(run), "--data.batch_size=32"]  # of 1,000 images, 334, 333 and 333
    ended(runs.launch(test))
    ended(runs.launch([*test, "--retest", "--trainer.strategy=ddp", "--trainer.devices=3"]))
    one, three = (
        json.loads((run / f"test-finetune-best{number}.json").read_text()) for number in ("", "-2")
    )
    assert one["test/accuracy"] == three["test/accuracy"]
    assert one["test/accuracy_per_class"] == pytest.approx(three["test/accuracy_per_class"])
    assert one["test/loss"] == pytest.approx(three["test/loss"], rel=1e-5)


@SLOW
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_find_unused_parameters_true"])
def test_other_ways_to_start_ddp_end_with_the_same(runs: RankedRuns, strategy: str) -> None:
    processes = (f"--trainer.strategy={strategy}", "--trainer.devices=2")
    ended(runs.launch(runs.ranked("both", ("vit",), "--data.batch_size=8", *processes)))
    runs.check("both", 2, runs.here("one", ("vit",), "--data.batch_size=16"))


@SLOW
def test_a_process_that_scores_in_pieces_keeps_what_the_others_keep(runs: RankedRuns) -> None:
    arguments = runs.ranked("both", ("vit",), "--data.batch_size=8", *DDP)
    (said,) = ended(runs.launch(arguments, **at("scoring", 0, run_out_of_memory, 3, rank=1)))
    assert said.count("not enough memory for 8 images") == 1
    runs.check("both", 2, runs.here("one", ("vit",), "--data.batch_size=16"))

"""Two processes on the CPU do what one does with the same global batch."""

import json

import pytest
import torch

from .conftest import DDP, Runs, assert_close

pytestmark = pytest.mark.timeout(400)

SLOW = pytest.mark.slow
STAGES = {  # with the number of prompts kept of 36
    "prompt-last": 36,
    **{"masked_0.3": 11, "finetune_0.3-last": 11},
    **{"masked_0.1": 4, "finetune_0.1-last": 4},
}


def _batch(size: int) -> str:
    return f"--data.batch_size={size}"


def test_two_processes_keep_and_learn_what_one_does_for_each_budget(runs: Runs) -> None:
    keep = "--condense.keep=[0.3,0.1]"
    out, err = runs.finish(runs.arguments("both", (), keep, _batch(8), *DDP))
    assert "distributed_backend=gloo" in err
    assert out.count("Result on the validation images") == 1
    runs.here(runs.arguments("one", (), keep, _batch(16)))
    for stage, kept in STAGES.items():
        one, two = (
            torch.load(runs.only_folder(name) / "checkpoints" / f"{stage}.ckpt", weights_only=True)[
                "state_dict"
            ]
            for name in ("one", "both")
        )
        assert int(one["model.prompts.keep"].sum()) == kept
        assert_close(one, two)


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
    runs: Runs, configs: tuple[str, ...], keep: float, accumulated: int
) -> None:
    """Also where a block keeps no prompt, and is not waited for in the backward pass."""
    options = (f"--condense.keep={keep}", f"--trainer.accumulate_grad_batches={accumulated}")
    runs.finish(runs.arguments("both", configs, *options, _batch(8), *DDP))
    runs.here(runs.arguments("one", configs, *options, _batch(16)))
    (one,), both = runs.ranks("one", 1), runs.ranks("both", 2)
    assert int(one["keep"].sum()) == round(keep * one["keep"].numel())
    if keep == 0.1:
        assert (one["keep"].sum(1) == 0).any()
    for rank in both:
        assert torch.equal(rank["keep"], one["keep"])
        assert_close(rank, one)
    assert runs.results("both")["kept"] == one["keep"].sum(1).tolist()
    assert runs.results("both") == runs.results("one")


def test_a_test_on_three_processes_counts_each_image_once(runs: Runs) -> None:
    runs.here(runs.arguments("run", ("vit",), "--trainer.limit_train_batches=1"))
    run = runs.only_folder("run")
    test = ["test", str(run), "--data.batch_size=32"]  # of 1,000 images, 334, 333 and 333
    runs.here(test)
    runs.finish([*test, "--retest", "--trainer.strategy=ddp", "--trainer.devices=3"])
    one, three = (
        json.loads((run / f"test-finetune-best{number}.json").read_text()) for number in ("", "-2")
    )
    assert one["test/accuracy"] == three["test/accuracy"]
    assert one["test/accuracy_per_class"] == pytest.approx(three["test/accuracy_per_class"])
    assert one["test/loss"] == pytest.approx(three["test/loss"], rel=1e-5)


@SLOW
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_find_unused_parameters_true"])
def test_other_ways_to_start_ddp_end_with_the_same(runs: Runs, strategy: str) -> None:
    processes = (f"--trainer.strategy={strategy}", "--trainer.devices=2")
    runs.finish(runs.arguments("both", ("vit",), _batch(8), *processes))
    runs.here(runs.arguments("one", ("vit",), _batch(16)))
    for rank in runs.ranks("both", 2):
        assert_close(rank, runs.ranks("one", 1)[0])


@SLOW
def test_a_process_that_scores_in_pieces_keeps_what_the_others_keep(runs: Runs) -> None:
    short = ("--trainer.callbacks+", "devices.ranks.ShortOfMemory")
    short += ("--trainer.callbacks.rank=1", "--trainer.callbacks.images=3")
    _, err = runs.finish(runs.arguments("both", ("vit",), _batch(8), *DDP, *short))
    assert err.count("not enough memory for 8 images at a time; from here on it takes 2") == 1
    runs.here(runs.arguments("one", ("vit",), _batch(16)))
    for rank in runs.ranks("both", 2):
        assert_close(rank, runs.ranks("one", 1)[0])

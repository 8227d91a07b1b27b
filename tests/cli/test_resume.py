"""``pcvpt fit --resume``, the record of a run, and tests that are not repeated."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pcvpt.cli.resume import differences, find_resumed

from .conftest import PRUNED, SMALL, Command, Refusal, same_weights

RESUME = ("fit", "--config", "demo.yaml", *PRUNED, *SMALL, "--output_dir=runs", "--resume")


@pytest.fixture
def cut_off(run: Path) -> Path:
    """The finished run without its fine-tuning, as if it had been cut off before."""
    for file in (run / "results.json", *run.glob("checkpoints/finetune*"), *run.glob("adapter*")):
        file.unlink()
    return run


def _table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_finished_run_stays_as_it_is(run: Path, command: Command) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert command(*RESUME).status == 0
    assert {path: path.read_bytes() for path in run.parent.rglob("*") if path.is_file()} == before


def test_a_run_that_was_cut_off_is_resumed_in_its_folder(
    cut_off: Path, finished: Path, command: Command
) -> None:
    config = (cut_off / "config.yaml").read_bytes()
    assert len(_table(cut_off)) == 2
    command(*RESUME, "--trainer.enable_progress_bar=false")  # which changes no result
    assert [path.name for path in cut_off.parent.iterdir()] == ["version_0"]
    assert (cut_off / "config.yaml").read_bytes() == config
    assert same_weights(finished, cut_off)
    assert _table(cut_off) == _table(finished)
    phases = [(row["phase"], row["epoch"]) for row in _table(cut_off)]
    assert phases == [("prompt", "0"), ("finetune", "1")]
    first, second = json.loads((cut_off / "environment.json").read_text())["starts"]
    assert [first["epochs_before"], second["epochs_before"]] == [0, 1]
    for name in "seed", "data_hash", "global_batch", "devices", "precision":
        assert first[name] == second[name]
    assert first["versions"]["torch"] == torch.__version__
    results = json.loads((cut_off / "results.json").read_text())
    assert results["data"]["hash"] == first["data_hash"]
    board = EventAccumulator(str(cut_off), size_guidance={"scalars": 0}).Reload()
    steps = [event.step for event in board.Scalars("train/loss")]
    assert steps == sorted(set(steps))  # no step is shown twice


def test_a_run_from_before_some_keys_is_resumed(
    cut_off: Path, finished: Path, command: Command
) -> None:
    config = cut_off / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    younger = ("  head_init:", "  prompt_init:", "  method:", "  finetune_as:")
    older = [line for line in lines if not line.startswith(younger)]
    assert len(older) == len(lines) - len(younger)
    config.write_text("".join(older))
    ended = command("fit", f"--config={config}", "--output_dir=runs", "--name=demo", "--resume")
    assert ended.status == 0, ended.output
    assert same_weights(finished, cut_off)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            ["--model.num_prompts=5", "--condense.keep=0.5"],
            ["config.yaml", "condense.keep=0.3 (now 0.5)", "model.num_prompts=20 (now 5)"],
        ),
        (["--data.batch_size=8"], ["global_batch=32", "8"]),
        (["--ckpt_path=runs/demo/version_0/checkpoints/prompt-last.ckpt"], ["--ckpt_path"]),
    ],
)
def test_a_run_is_not_resumed_with_another_configuration(
    options: list[str], named: list[str], cut_off: Path, refusal: Refusal
) -> None:
    error = refusal(*RESUME, *options)
    for text in named:
        assert text in error


def test_a_damaged_last_checkpoint_is_named(cut_off: Path, refusal: Refusal) -> None:
    last = cut_off / "checkpoints" / "prompt-last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert "demo/version_0/checkpoints/prompt-last.ckpt" in refusal(*RESUME)


def test_differences_are_those_that_change_the_result() -> None:
    saved = {"model": {"num_prompts": 4}, "trainer": {"devices": 1, "precision": None}, "x": {}}
    assert differences(saved, saved) == []
    other = {"model": {"num_prompts": 4}, "trainer": {"devices": 8, "precision": None}, "x": {}}
    assert differences(saved, other) == []
    other["trainer"]["precision"] = "bf16-mixed"
    assert differences(saved, other) == ["trainer.precision=None (now bf16-mixed)"]


def test_a_key_that_an_older_run_lacks_has_the_value_from_before() -> None:
    """Only the head may have any start, because it comes from the checkpoint."""
    older: dict[str, Any] = {"model.mode": "deep"}
    before = {"model.prompt_init": "uniform", "condense.method": "prune"}
    assert differences(older, {**older, **before, "model.head_init": "zero"}) == []
    assert differences(older, {**older, **dict.fromkeys(before, "other")}) == [
        "condense.method=prune (now other)",
        "model.prompt_init=uniform (now other)",
    ]
    younger, now = ({**older, "model.head_init": head} for head in ("vpt", "zero"))
    assert differences(younger, now) == ["model.head_init=vpt (now zero)"]


def test_without_a_run_there_is_none_to_resume(tmp_path: Path) -> None:
    assert find_resumed(tmp_path, "model: {}") == (None, None)


def test_a_checkpoint_is_tested_once(run: Path, command: Command, refusal: Refusal) -> None:
    options = ("test", run, "--data.batch_size=1000")
    command(*options)
    first = json.loads((run / "test-finetune-best.json").read_text())
    assert first["test"] == 1
    assert f"{100 * first['test/accuracy']:.2f} %" in refusal(*options)
    command(*options, "--retest")
    assert json.loads((run / "test-finetune-best-2.json").read_text())["test"] == 2
    assert json.loads((run / "test-finetune-best.json").read_text()) == first


def test_a_run_named_after_its_configs_has_its_table_beside_that_of_a_csv_logger(
    work: Path, command: Command
) -> None:
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    ended = command("fit", "--config=demo.yaml", "--config=vpt.yaml", *SMALL, logger, "--resume")
    assert "condensed" not in ended.output
    run = work / "runs" / "demo_vpt" / "version_0"
    assert "val/accuracy" in _table(run)[0]
    assert (run / "csv" / "version_0" / "metrics.csv").is_file()
    assert (run / "environment.json").is_file()
    assert (run / "config.yaml").is_file()

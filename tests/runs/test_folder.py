from pathlib import Path

import pytest
import torch

from pcvpt.errors import UsageError
from pcvpt.runs import folder
from pcvpt.runs.folder import (
    default_checkpoint,
    file_of_test,
    find_run,
    last_checkpoint,
    run_to_resume,
    title_of,
)


def _run(run: Path, *checkpoints: str, finished: bool = False) -> Path:
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    for name in checkpoints:
        (run / "checkpoints" / f"{name}.ckpt").touch()
    if finished:
        (run / "results.json").touch()
    return run


def test_a_name_means_a_run_or_the_newest_run_with_checkpoints_in_it(tmp_path: Path) -> None:
    for number in 2, 10:
        _run(tmp_path / f"version_{number}", "prompt-last")
    _run(tmp_path / "version_11")
    newest = find_run(str(tmp_path))
    assert newest == find_run(str(newest)) == tmp_path / "version_10"
    assert title_of(newest) == f"{tmp_path.name}/version_10"
    with pytest.raises(UsageError, match=r"elsewhere.*config\.yaml"):
        find_run(str(tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], None),
        ([("finetune-last", True)], 0),
        ([("finetune-last", True), ("prompt-last", False)], 1),
        ([("prompt-last", False), (None, False)], 0),
        ([("finetune-last", True), (None, False)], None),  # interrupted before a checkpoint
    ],
)
def test_the_newest_run_is_resumed_if_it_can_be(
    tmp_path: Path, runs: list[tuple[str | None, bool]], expected: int | None
) -> None:
    for number, (checkpoint, finished) in enumerate(runs):
        names = [checkpoint] if checkpoint else []
        _run(tmp_path / f"version_{number}", *names, finished=finished)
    found = run_to_resume(tmp_path)
    assert found == (None if expected is None else tmp_path / f"version_{expected}")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["prompt-best", "prompt-last"], "prompt-best"),
        (["prompt-last", "masked", "finetune-last"], "finetune-last"),
        (["prompt-best", "masked", "finetune-best", "finetune-last"], "finetune-best"),
        (["prompt-last", "masked_0.1", "masked_0.5", "finetune_0.5-last"], "finetune_0.5-last"),
    ],
)
def test_one_checkpoint_represents_a_run(tmp_path: Path, names: list[str], expected: str) -> None:
    assert default_checkpoint(_run(tmp_path / "run", *names)).stem == expected


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ([], "no checkpoint"),
        (["finetune_0.1-best", "finetune_0.5-last"], "finetune_0.1-best, finetune_0.5-last"),
        (["masked_0.1", "prompt-last"], "masked_0.1, prompt-last"),
    ],
)
def test_a_run_without_one_checkpoint_to_take_is_refused(
    tmp_path: Path, names: list[str], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        default_checkpoint(_run(tmp_path / "run", *names))


def test_the_checkpoint_with_the_most_steps_resumes_a_run(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    with pytest.raises(UsageError, match="no checkpoint"):
        last_checkpoint(run)
    for name, step in ("prompt-last", 9), ("finetune-last", 12):
        path = run / "checkpoints" / f"{name}.ckpt"
        torch.save({"global_step": step, "pcvpt": {}}, path)
    assert last_checkpoint(run) == path
    path.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"finetune-last\.ckpt: not a readable checkpoint"):
        last_checkpoint(run)


def test_each_test_of_a_checkpoint_has_a_file(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "masked.ckpt"
    files = [file_of_test(checkpoint, number) for number in (1, 2, 10)]
    assert [file.name for file in files] == [f"test-masked{n}.json" for n in ("", "-2", "-10")]
    for file in files:
        file.touch()
    (tmp_path / "test-masked_0.1.json").touch()
    assert folder.tests_of(checkpoint) == files

"""Which run is resumed, and from which of its checkpoints."""

from pathlib import Path

import torch

from pcvpt.runs.folder import last_checkpoint, run_to_resume

LAST = "checkpoints/prompt-last.ckpt"


def _make(folder: Path, number: int, *files: str) -> Path:
    run = folder / f"version_{number}"
    for file in files:
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).touch()
    return run


def test_the_newest_run_with_a_checkpoint_is_resumed_unless_it_is_finished(tmp_path: Path) -> None:
    assert run_to_resume(tmp_path) is None
    first = _make(tmp_path, 2, "config.yaml", LAST)
    assert run_to_resume(tmp_path) == first
    newer = _make(tmp_path, 10, "config.yaml", LAST)
    assert run_to_resume(tmp_path) == newer
    _make(tmp_path, 11, "config.yaml")  # cut off before its first checkpoint
    assert run_to_resume(tmp_path) == newer
    _make(tmp_path, 10, "results.json")
    assert run_to_resume(tmp_path) is None


def test_the_last_checkpoint_is_that_of_most_steps(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for stage, step in ("finetune_0.5", 30), ("finetune_0.1", 40), ("prompt", 20):
        content = {"pcvpt": {}, "global_step": step}
        torch.save(content, tmp_path / "checkpoints" / f"{stage}-last.ckpt")
    assert last_checkpoint(tmp_path).stem == "finetune_0.1-last"

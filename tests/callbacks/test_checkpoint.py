from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt import PromptCondensation, PromptTuner
from pcvpt.callbacks import PhaseCheckpoint

STAGES = ("prompt-best", "prompt-last", "masked", "finetune-best", "finetune-last")
TRAINED = {
    "phase",
    "model.prompts.values",
    "model.prompts.keep",
    "model.prompts.scores",
    "model.head.weight",
    "model.head.bias",
}
Fit = Callable[..., Any]


class Scripted(PromptTuner):
    """Replaces the monitored metric by 3, 1 in the first phase and 2, 2.5, 0 in the second."""

    def on_validation_epoch_end(self) -> None:
        self.log("scripted", (3.0, 1.0, 2.0, 2.5, 0.0)[self.current_epoch])


def _load(folder: Path, stage: str) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(folder / "checkpoints" / f"{stage}.ckpt", weights_only=True)
    return saved


def test_a_run_leaves_best_and_last_of_both_phases_and_the_masked_model(
    fit: Fit, tmp_path: Path
) -> None:
    _, module, watch = fit(callbacks=[PhaseCheckpoint()])
    assert {path.stem for path in (tmp_path / "checkpoints").iterdir()} == set(STAGES)
    last = _load(tmp_path, "finetune-last")["state_dict"]
    for name, value in module.state_dict().items():
        assert name not in last or torch.equal(last[name], value)
    masked = _load(tmp_path, "masked")["state_dict"]
    assert torch.equal(masked["model.prompts.keep"], module.model.prompts.keep)
    assert not masked["model.prompts.keep"].all()
    assert torch.equal(masked["model.prompts.values"], watch.prompts[10])
    assert torch.equal(masked["model.head.weight"], watch.heads[10])
    first = _load(tmp_path, "prompt-last")["state_dict"]
    assert torch.equal(first["model.prompts.values"], masked["model.prompts.values"])
    assert first["model.prompts.keep"].all()
    assert [int(_load(tmp_path, stage)["state_dict"]["phase"]) for stage in STAGES] == [
        *(0, 0, 1, 1, 1)
    ]


def test_best_is_counted_within_its_phase(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    module = tuner()
    module.__class__ = Scripted
    fit(
        PromptCondensation(prompt_epochs=2, finetune_epochs=3),
        module,
        callbacks=[PhaseCheckpoint(monitor="scripted")],
    )
    epochs = {stage: _load(tmp_path, stage)["epoch"] for stage in STAGES}
    assert epochs == {
        "prompt-best": 0,
        "prompt-last": 1,
        "masked": 2,
        "finetune-best": 3,
        "finetune-last": 4,
    }


def test_plain_prompt_tuning_leaves_no_checkpoint_of_a_second_phase(
    fit: Fit, tmp_path: Path
) -> None:
    fit(PromptCondensation(keep=None, prompt_epochs=1), callbacks=[PhaseCheckpoint()])
    assert {path.stem for path in (tmp_path / "checkpoints").iterdir()} == {
        "prompt-best",
        "prompt-last",
    }


def test_masked_is_written_after_an_early_end_of_prompt_training(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    module = tuner()
    module.__class__ = Scripted
    condense = PromptCondensation(
        prompt_epochs=3, finetune_epochs=1, patience=1, monitor="scripted"
    )
    trainer, *_ = fit(condense, module, callbacks=[PhaseCheckpoint()])
    assert trainer.current_epoch == 3
    assert not _load(tmp_path, "masked")["state_dict"]["model.prompts.keep"].all()


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_checkpoints_hold_only_what_is_trained(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path, mode: str
) -> None:
    _, module, _ = fit(
        PromptCondensation(prompt_epochs=1, finetune_epochs=1),
        tuner(mode=mode),
        callbacks=[PhaseCheckpoint()],
    )
    for stage in STAGES:
        assert set(_load(tmp_path, stage)["state_dict"]) == TRAINED
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    size = (tmp_path / "checkpoints" / "finetune-last.ckpt").stat().st_size
    assert 8 * trained < size < 8 * trained + 40_000  # values and momentum, and what names them
    assert (tmp_path / "checkpoints" / "masked.ckpt").stat().st_size < size - 4 * trained + 10_000


def test_an_epoch_without_validation_cannot_be_the_best(
    fit: Callable[..., Any], tmp_path: Path
) -> None:
    callback = PhaseCheckpoint()
    condense = PromptCondensation(prompt_epochs=2, finetune_epochs=1)
    fit(condense, callbacks=[callback], check_val_every_n_epoch=2)
    folder = tmp_path / "checkpoints"
    assert (folder / "prompt-best.ckpt").is_file()
    assert not (folder / "finetune-best.ckpt").exists()
    assert (folder / "finetune-last.ckpt").is_file()

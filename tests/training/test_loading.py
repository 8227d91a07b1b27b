"""Checkpoints by Lightning's own names, tuners from checkpoints, and a second fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from factories import TinyData, fit, make_trainer, make_tuner, recipe
from torch import Tensor

from pcvpt import PromptCondensation, PromptTuner, UsageError
from pcvpt.callbacks import PhaseCheckpoint, RunSummary


@torch.no_grad()
def _logits(tuner: PromptTuner) -> Tensor:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    return tuner.eval()(images)


@pytest.mark.parametrize(
    ("condense", "module"),
    [
        ({}, {}),
        ({"method": "merge"}, {"execution": "prefix"}),
        ({"keep": [0.5, 0.3]}, {"mode": "shallow", "execution": "tokens"}),
    ],
)
def test_best_and_last_are_those_of_the_last_phase_and_a_tuner_is_made_of_either(
    tmp_path: Path, condense: dict[str, Any], module: dict[str, Any]
) -> None:
    run = fit(tmp_path, condense, make_tuner(**module), callbacks=[PhaseCheckpoint()])
    phase = "finetune_0.3" if isinstance(condense.get("keep"), list) else "finetune"
    trained = _logits(run.module)
    for which in "best", "last":  # the only epoch is both
        run.trainer.test(run.module, datamodule=TinyData(), ckpt_path=which, verbose=False)
        assert torch.equal(_logits(run.module), trained)
        loaded = PromptTuner.load_from_checkpoint(run.checkpoint(f"{phase}-{which}"))
        assert torch.equal(_logits(loaded), trained)
    assert Path(str(run.trainer.ckpt_path)) == run.checkpoint(f"{phase}-last")


def test_a_fit_resumes_the_last_checkpoint_by_its_name(tmp_path: Path) -> None:
    fit(tmp_path, callbacks=[PhaseCheckpoint()])
    longer = PromptCondensation(prompt_epochs=1, finetune_epochs=2)
    trainer = make_trainer(tmp_path, [longer, PhaseCheckpoint()])
    trainer.fit(make_tuner(), datamodule=TinyData(), ckpt_path="last")
    assert trainer.current_epoch == 3


def test_a_tuner_of_a_checkpoint_is_trained_only_by_recipes_that_are_given(tmp_path: Path) -> None:
    path = fit(tmp_path / "one", {"keep": None}, callbacks=[PhaseCheckpoint()]).checkpoint
    with pytest.raises(UsageError, match="holds no recipe"):
        fit(tmp_path / "two", module=PromptTuner.load_from_checkpoint(path("prompt-last")))
    recipes = {"prompt": recipe(), "finetune": recipe(), "strict": False}
    loaded = PromptTuner.load_from_checkpoint(path("prompt-last"), **recipes)
    assert fit(tmp_path / "three", module=loaded).report["kept"]


def test_a_file_that_is_no_checkpoint_or_of_another_backbone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such checkpoint"):
        PromptTuner.load_from_checkpoint(tmp_path / "nothing.ckpt")
    path = fit(tmp_path, {"keep": None}, callbacks=[PhaseCheckpoint()]).checkpoint("prompt-last")
    with pytest.raises(UsageError, match="fingerprint"):
        PromptTuner.load_from_checkpoint(path, pretrained=False)


def test_a_second_fit_of_condensed_prompts_is_refused(tmp_path: Path) -> None:
    module = fit(tmp_path).module
    with pytest.raises(UsageError, match="condensed already"):
        fit(tmp_path, module=module)


def test_callbacks_serve_a_second_tuner_but_a_trainer_does_not(tmp_path: Path) -> None:
    callbacks = [
        PromptCondensation(prompt_epochs=2, finetune_epochs=1, patience=1, monitor="val/accuracy"),
        PhaseCheckpoint(),
        RunSummary(),
    ]
    found = []
    for name in "one", "two":
        torch.manual_seed(0)
        trainer = make_trainer(tmp_path / name, callbacks)
        trainer.fit(make_tuner(), datamodule=TinyData())
        found.append(
            torch.load(tmp_path / name / "checkpoints" / "finetune-best.ckpt")["state_dict"]
        )
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
    with pytest.raises(UsageError, match="this Trainer has trained already"):
        trainer.fit(make_tuner(), datamodule=TinyData())

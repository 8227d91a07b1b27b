from collections.abc import Callable

import pytest
import torch
from factories import STEPS, Run, make_tuner

from pcvpt import PromptCondensation, PromptTuner
from pcvpt.callbacks import PhaseCheckpoint

STAGES = ("prompt-best", "prompt-last", "masked", "finetune-best", "finetune-last")
TRAINED = {
    *("phase", "model.prompts.values", "model.prompts.keep", "model.prompts.scores"),
    *("model.head.weight", "model.head.bias"),
}
Fit = Callable[..., Run]


class Scripted(PromptTuner):
    """Logs a metric that is 3, 1 in the first phase and 2, 2.5, 0 in the second."""

    def on_validation_epoch_end(self) -> None:
        self.log("scripted", (3.0, 1.0, 2.0, 2.5, 0.0)[self.current_epoch])


def test_a_run_leaves_best_and_last_of_both_phases_and_the_masked_model(two_phases: Run) -> None:
    module, watch = two_phases.module, two_phases.watch
    assert two_phases.checkpoints() == set(STAGES)
    last, masked, first = map(two_phases.state, ("finetune-last", "masked", "prompt-last"))
    for name, value in module.state_dict().items():
        assert name not in last or torch.equal(last[name], value)
    assert torch.equal(masked["model.prompts.keep"], module.model.prompts.keep)
    assert not masked["model.prompts.keep"].all()
    assert torch.equal(masked["model.prompts.values"], watch.prompts[2 * STEPS])
    assert torch.equal(masked["model.head.weight"], watch.heads[2 * STEPS])
    assert torch.equal(first["model.prompts.values"], masked["model.prompts.values"])
    assert first["model.prompts.keep"].all()
    assert [int(two_phases.state(stage)["phase"]) for stage in STAGES] == [0, 0, 1, 1, 1]


def test_best_is_counted_within_its_phase(fit: Fit) -> None:
    condense = PromptCondensation(prompt_epochs=2, finetune_epochs=3)
    checkpoint = PhaseCheckpoint(monitor="scripted")
    run = fit(condense, make_tuner(Scripted), callbacks=[checkpoint])
    assert [run.load(stage)["epoch"] for stage in STAGES] == [0, 1, 2, 3, 4]


def test_plain_prompt_tuning_leaves_no_checkpoint_of_a_second_phase(plain: Run) -> None:
    assert plain.checkpoints() == {"prompt-best", "prompt-last"}


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_checkpoints_hold_only_what_is_trained(fit: Fit, mode: str) -> None:
    run = fit(module=make_tuner(mode=mode), callbacks=[PhaseCheckpoint()])
    for stage in STAGES:
        assert set(run.state(stage)) == TRAINED
    trained = sum(p.numel() for p in run.module.parameters() if p.requires_grad)
    size, masked = (run.checkpoint(name).stat().st_size for name in ("finetune-last", "masked"))
    assert 8 * trained < size < 8 * trained + 40_000  # values and momentum, and their names
    assert masked < size - 4 * trained + 10_000


def test_an_epoch_without_validation_cannot_be_the_best(fit: Fit) -> None:
    condense = PromptCondensation(prompt_epochs=2, finetune_epochs=1)
    run = fit(condense, callbacks=[PhaseCheckpoint()], check_val_every_n_epoch=2)
    assert run.checkpoints() == {"prompt-best", "prompt-last", "masked", "finetune-last"}

"""Both phases on a backbone whose layers have several widths."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from factories import SMALL_SWIN, STEPS, Run, make_tuner, recipe

from pcvpt import PromptCondensation, PromptTuner
from pcvpt.callbacks import PhaseCheckpoint

Fit = Callable[..., Run]


def _swin(**options: Any) -> PromptTuner:
    torch.manual_seed(0)
    strong = recipe(base_lr=5.0, weight_decay=0.5)
    return make_tuner(**{**SMALL_SWIN, "prompt": strong, "finetune": strong, **options})


@pytest.mark.parametrize("pool", [False, True])
def test_swin_goes_through_both_phases(fit: Fit, mode: str, pool: bool) -> None:
    condense = PromptCondensation(keep=0.5, prompt_epochs=1, finetune_epochs=1)
    run = fit(condense, _swin(mode=mode, pool_prompts=pool))
    bank, prompts = run.module.model.prompts, run.watch.prompts
    assert run.module.phase_name == "finetune"
    assert sum(bank.counts()) == bank.keep.numel() // 2
    assert bank.counts() == run.report["kept"]
    assert bank.scores.isfinite().all()
    before, at_change, at_end = prompts[STEPS - 1], prompts[STEPS], bank.stack()
    assert (before != at_change).any(dim=2).all()  # while all are trained, all move
    assert torch.equal(at_change[~bank.keep], at_end[~bank.keep])  # in spite of decay and momentum
    assert (at_change[bank.keep] != at_end[bank.keep]).any(dim=1).all()


def test_the_same_share_of_each_stage_is_kept_under_scope_stage(fit: Fit) -> None:
    condense = PromptCondensation(
        keep=None, count=3, scope="stage", prompt_epochs=1, finetune_epochs=1
    )
    first, second, third, fourth = fit(condense, _swin()).module.model.prompts.counts()
    assert (first + second, third + fourth) == (3, 3)


def test_a_resumed_run_of_swin_rewinds_and_equals_the_uninterrupted_one(fit: Fit) -> None:
    def run(**options: Any) -> Run:
        condense = PromptCondensation(keep=0.5, prompt_epochs=1, finetune_epochs=1, rewind=True)
        return fit(condense, _swin(prompt_dropout=0.2), **options)

    full = run(callbacks=[PhaseCheckpoint()])
    prompts = full.watch.prompts
    assert not torch.equal(prompts[STEPS - 1], prompts[0])
    assert torch.equal(prompts[STEPS], prompts[0])
    resumed = run(ckpt_path=full.checkpoint("prompt-last"))
    one, two = full.module.model, resumed.module.model
    assert torch.equal(one.prompts.keep, two.prompts.keep)
    assert torch.equal(one.prompts.stack(), two.prompts.stack())
    assert torch.equal(one.head.fc.weight, two.head.fc.weight)

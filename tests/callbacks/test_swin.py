"""Both phases on a backbone whose layers have several widths."""

from typing import Any

import pytest
import torch
from factories import SMALL_SWIN, STEPS, Fit, Run, differences, make_tuner, recipe

from pcvpt import PromptTuner
from pcvpt.callbacks import PhaseCheckpoint


def _swin(**options: Any) -> PromptTuner:
    torch.manual_seed(0)
    strong = recipe(base_lr=5.0, weight_decay=0.5)
    return make_tuner(**{**SMALL_SWIN, "prompt": strong, "finetune": strong, **options})


@pytest.mark.parametrize("pool", [False, True])
def test_swin_goes_through_both_phases(fit: Fit, mode: str, pool: bool) -> None:
    run = fit({"keep": 0.5}, _swin(mode=mode, pool_prompts=pool))
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
    condense = {"keep": None, "count": 3, "scope": "stage"}
    first, second, third, fourth = fit(condense, _swin()).module.model.prompts.counts()
    assert (first + second, third + fourth) == (3, 3)


def test_a_resumed_run_of_swin_rewinds_and_equals_the_uninterrupted_one(fit: Fit) -> None:
    def run(**options: Any) -> Run:
        return fit({"keep": 0.5, "rewind": True}, _swin(prompt_dropout=0.2), **options)

    full = run(callbacks=[PhaseCheckpoint()])
    prompts, heads = full.watch.prompts, full.watch.heads
    assert not torch.equal(prompts[STEPS - 1], prompts[0])
    assert torch.equal(prompts[STEPS], prompts[0])
    assert not torch.equal(heads[STEPS], heads[0])  # the head is not rewound
    resumed = run(ckpt_path=full.checkpoint("prompt-last"))
    assert differences(full.outcome(), resumed.outcome()) == []

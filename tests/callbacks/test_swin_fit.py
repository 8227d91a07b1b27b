"""Both phases on a backbone whose layers have several widths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt import PhaseRecipe, PromptCondensation, PromptTuner
from pcvpt.callbacks import PhaseCheckpoint

STEPS = 5  # of an epoch
Fit = Callable[..., Any]


@pytest.fixture
def swin(tuner: Callable[..., PromptTuner]) -> Callable[..., PromptTuner]:
    def build(**options: Any) -> PromptTuner:
        recipe = PhaseRecipe(_sgd, base_lr=5.0, weight_decay=0.5)
        small = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
        arguments = {"image_size": 32, "pretrained": False, "timm_kwargs": small, **options}
        return tuner(
            backbone="swin_tiny_patch4_window7_224", prompt=recipe, finetune=recipe, **arguments
        )

    return build


def _sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("pool", [False, True])
def test_swin_goes_through_both_phases(fit: Fit, swin: Any, mode: str, pool: bool) -> None:
    """Masked prompts never change again, though decay and momentum are on; others go on."""
    condense = PromptCondensation(keep=0.5, prompt_epochs=1, finetune_epochs=1)
    _, module, watch = fit(condense, swin(mode=mode, pool_prompts=pool))
    bank = module.model.prompts
    assert module.phase_name == "finetune"
    assert sum(bank.counts()) == bank.keep.numel() // 2
    assert bank.counts() == condense.report["kept"]
    assert bank.scores.isfinite().all()
    before, at_change, at_end = watch.prompts[STEPS - 1], watch.prompts[STEPS], bank.stack()
    assert (before != at_change).any(dim=2).all()  # while all are trained, all move
    assert torch.equal(at_change[~bank.keep], at_end[~bank.keep])
    assert (at_change[bank.keep] != at_end[bank.keep]).any(dim=1).all()


def test_the_same_share_of_each_stage_is_kept_under_scope_stage(fit: Fit, swin: Any) -> None:
    condense = PromptCondensation(
        keep=None, count=3, scope="stage", prompt_epochs=1, finetune_epochs=1
    )
    _, module, _ = fit(condense, swin())
    first, second, third, fourth = module.model.prompts.counts()
    assert (first + second, third + fourth) == (3, 3)


def test_rewinding_starts_from_the_initial_values_of_every_width(fit: Fit, swin: Any) -> None:
    condense = PromptCondensation(keep=0.5, prompt_epochs=1, finetune_epochs=1, rewind=True)
    _, _, watch = fit(condense, swin())
    assert not torch.equal(watch.prompts[STEPS - 1], watch.prompts[0])
    assert torch.equal(watch.prompts[STEPS], watch.prompts[0])


def test_a_resumed_run_of_swin_equals_the_uninterrupted_one(
    fit: Fit, swin: Any, tmp_path: Path
) -> None:
    def condense() -> PromptCondensation:
        return PromptCondensation(keep=0.5, prompt_epochs=1, finetune_epochs=1, rewind=True)

    options = {"pretrained": False, "prompt_dropout": 0.2}
    start = swin(**options)
    weights = {name: value.clone() for name, value in start.state_dict().items()}
    _, whole, _ = fit(condense(), start, callbacks=[PhaseCheckpoint()])
    resumed = swin(**options)
    resumed.load_state_dict(weights)  # random ones, so that another model has others
    checkpoint = next(tmp_path.rglob("prompt-last.ckpt"))
    _, resumed, _ = fit(condense(), resumed, ckpt_path=checkpoint, folder=tmp_path / "again")
    assert torch.equal(whole.model.prompts.keep, resumed.model.prompts.keep)
    assert torch.equal(whole.model.prompts.stack(), resumed.model.prompts.stack())
    assert torch.equal(whole.model.head.fc.weight, resumed.model.head.fc.weight)

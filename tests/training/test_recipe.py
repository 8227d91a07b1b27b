"""Schedule, parameter groups, and the hold on masked prompts."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer, SparseAdam

from pcvpt.errors import UsageError
from pcvpt.models import PromptedVisionTransformer, create_model
from pcvpt.training.recipe import PhaseRecipe, hold_masked_prompts, parameter_groups

KEEP = torch.tensor([[1, 0, 1], [0, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"base_lr": -1.0}, "base_lr=-1"),
        ({"warmup_epochs": math.inf}, "warmup_epochs=inf"),
        ({"optimizer": partial(SGD, momentum=-1)}, "optimizer: .*momentum"),
        ({"optimizer": SparseAdam}, "SparseAdam"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        PhaseRecipe(**{"optimizer": SGD, **options})


@pytest.mark.parametrize(
    ("options", "steps", "per_epoch", "factors"),
    [
        # Two epochs of warm-up with five steps each; the first step trains, and a scheduler asks
        # once more after the last step.
        (
            {"warmup_epochs": 2},
            50,
            5,
            {
                **{0: 1 / 11, 4: 5 / 11, 9: 10 / 11, 10: 1, 30: 0.5, 50: 0, 60: 0},
                **{20: 0.5 * (1 + math.cos(math.pi / 4)), 40: 0.5 * (1 - math.cos(math.pi / 4))},
            },
        ),
        ({"warmup_epochs": 0.5, "schedule": "constant"}, 10, 4, {0: 1 / 3, 1: 2 / 3, 2: 1, 9: 1}),
        ({}, 8, 4, {0: 1, 4: 0.5}),
        # A warm-up longer than the phase never passes the full rate.
        ({"warmup_epochs": 10}, 12, 4, {0: 1 / 41, 11: 12 / 41, 40: 1}),
    ],
    ids=["warm-up and cosine", "constant", "no warm-up", "long warm-up"],
)
def test_the_rate_rises_by_step_and_then_follows_its_schedule(
    options: dict[str, Any], steps: int, per_epoch: int, factors: dict[int, float]
) -> None:
    recipe = PhaseRecipe(SGD, **options)
    found = {step: recipe.factor(step, steps, per_epoch) for step in factors}
    assert found == pytest.approx(factors, abs=1e-12)


@pytest.mark.parametrize(("epochs", "warned"), [(2, True), (3, False)])
def test_a_warm_up_that_fills_the_phase_is_told(epochs: int, warned: bool) -> None:
    recipe = PhaseRecipe(SGD, warmup_epochs=2)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        recipe.build(_model(), 32, steps=5 * epochs, steps_per_epoch=5)
    told = [str(one.message) for one in found]
    assert any("warmup_epochs=2, but the phase has 2 epochs" in text for text in told) is warned


def _model(**options: Any) -> PromptedVisionTransformer:
    size: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "pretrained": False}
    return create_model("vit_demo_patch8_32", 5, **{"num_prompts": 3, **size, **options})


_sgd = partial(SGD, lr=0.1, momentum=0.9)


def _steps(model: PromptedVisionTransformer, optimizer: Optimizer, count: int = 3) -> None:
    images = torch.randn(4, 3, 32, 32)
    for _ in range(count):
        optimizer.zero_grad()
        model.train()(images).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make", [_sgd, partial(AdamW, lr=0.1)])
@pytest.mark.parametrize("held", [True, False])
def test_masked_prompts_move_unless_they_are_held_and_kept_ones_always(
    make: Callable[..., Optimizer], held: bool
) -> None:
    model = _model()
    optimizer = make(parameter_groups(model, 0.1))
    _steps(model, optimizer)  # so that there is momentum
    model.prompts.apply_mask(list(KEEP))
    if held:
        hold_masked_prompts(optimizer, model.prompts)
    before = model.prompts.values.detach().clone()
    _steps(model, optimizer)
    moved = (model.prompts.values.detach() != before).any(2)
    assert torch.equal(moved, KEEP if held else torch.ones_like(KEEP))


def test_a_second_hold_keeps_what_the_first_held() -> None:
    model = _model()
    optimizer = _sgd(parameter_groups(model, 0.1))
    values = [model.prompts.values.detach().clone()]
    for keep in torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool), KEEP:
        model.prompts.apply_mask(list(keep))
        hold_masked_prompts(optimizer, model.prompts)
        _steps(model, optimizer)
        values.append(model.prompts.values.detach().clone())
    before, between, after = values
    assert torch.equal(after[1, 2], before[1, 2])
    assert torch.equal(after[~KEEP], between[~KEEP])
    assert not torch.equal(between[0, 1], before[0, 1])

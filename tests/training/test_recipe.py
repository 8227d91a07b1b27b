"""Schedule, parameter groups, and the hold on masked prompts."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from pcvpt.models import PromptedVisionTransformer, create_model
from pcvpt.training.recipe import PhaseRecipe, hold_masked_prompts, parameter_groups

KEEP = torch.tensor([[1, 0, 1], [0, 0, 0]], dtype=torch.bool)


def _recipe(**options: Any) -> PhaseRecipe:
    return PhaseRecipe(optimizer=SGD, **options)


def test_the_learning_rate_grows_with_the_batch() -> None:
    recipe = _recipe(base_lr=2.5)
    assert recipe.learning_rate(256) == pytest.approx(2.5)
    assert recipe.learning_rate(64) == pytest.approx(0.625)


# Two epochs of warm-up at five steps an epoch, in ten epochs.
@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1 / 11),  # the first step trains
        (4, 5 / 11),
        (9, 10 / 11),
        (10, 1.0),
        (20, 0.5 * (1 + math.cos(math.pi / 4))),
        (30, 0.5),
        (40, 0.5 * (1 - math.cos(math.pi / 4))),
        (50, 0.0),
        (60, 0.0),  # a scheduler asks once more after the last step
    ],
)
def test_warm_up_rises_by_step_then_a_cosine_falls_to_zero(step: int, factor: float) -> None:
    recipe = _recipe(warmup_epochs=2)
    assert recipe.factor(step, 50, 5) == pytest.approx(factor, abs=1e-12)


def test_a_constant_schedule_stays_after_its_warm_up() -> None:
    recipe = _recipe(warmup_epochs=0.5, schedule="constant")
    factors = [recipe.factor(step, 10, 4) for step in range(10)]
    assert factors == pytest.approx([1 / 3, 2 / 3] + [1.0] * 8)


def test_without_warm_up_the_first_step_is_full() -> None:
    recipe = _recipe()
    assert recipe.factor(0, 8, 4) == 1.0
    assert recipe.factor(4, 8, 4) == pytest.approx(0.5)


def test_a_warm_up_longer_than_the_phase_never_passes_the_full_rate() -> None:
    recipe = _recipe(warmup_epochs=10)
    factors = [recipe.factor(step, 12, 4) for step in range(12)]
    assert factors == pytest.approx([(step + 1) / 41 for step in range(12)])
    assert recipe.factor(40, 12, 4) == 1.0


def _model(**options: Any) -> PromptedVisionTransformer:
    size: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "pretrained": False}
    return create_model("vit_demo_patch8_32", 5, **{"num_prompts": 3, **size, **options})


def test_biases_have_no_weight_decay() -> None:
    model = _model()
    decayed, biases = parameter_groups(model, 0.01)
    assert decayed["weight_decay"] == 0.01
    assert [id(p) for p in decayed["params"]] == [id(model.head.weight), id(model.prompts.values)]
    assert biases["weight_decay"] == 0
    assert [id(p) for p in biases["params"]] == [id(model.head.bias)]


def test_frozen_parameters_are_in_no_group() -> None:
    layer = nn.Linear(2, 3)
    layer.weight.requires_grad_(False)
    decayed, biases = parameter_groups(layer, 0.1)
    assert decayed["params"] == []
    assert [id(p) for p in biases["params"]] == [id(layer.bias)]


def _sgd(groups: list[dict[str, Any]]) -> Optimizer:
    return SGD(groups, lr=0.1, momentum=0.9)


def _adamw(groups: list[dict[str, Any]]) -> Optimizer:
    return AdamW(groups, lr=0.1)


def _steps(model: PromptedVisionTransformer, optimizer: Optimizer, count: int = 3) -> None:
    images = torch.randn(4, 3, 32, 32)
    for _ in range(count):
        optimizer.zero_grad()
        model.train()(images).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make", [_sgd, _adamw])
def test_held_prompts_do_not_move_and_kept_ones_do(
    make: Callable[[list[dict[str, Any]]], Optimizer],
) -> None:
    model = _model()
    optimizer = make(parameter_groups(model, 0.1))
    _steps(model, optimizer)  # so that there is momentum
    model.prompts.apply_mask(list(KEEP))
    hold_masked_prompts(optimizer, model.prompts)
    before = model.prompts.values.detach().clone()
    _steps(model, optimizer)
    after = model.prompts.values.detach()
    assert torch.equal(after[~KEEP], before[~KEEP])
    assert (after[KEEP] != before[KEEP]).any(1).all()


@pytest.mark.parametrize("make", [_sgd, _adamw])
def test_without_a_hold_masked_prompts_would_move(
    make: Callable[[list[dict[str, Any]]], Optimizer],
) -> None:
    model = _model()
    optimizer = make(parameter_groups(model, 0.1))
    model.prompts.apply_mask(list(KEEP))
    before = model.prompts.values.detach().clone()
    _steps(model, optimizer)
    assert (model.prompts.values.detach()[~KEEP] != before[~KEEP]).any(1).all()


def test_a_second_hold_keeps_what_the_first_held() -> None:
    model = _model()
    optimizer = _sgd(parameter_groups(model, 0.1))
    before = model.prompts.values.detach().clone()
    model.prompts.apply_mask([torch.tensor([True, True, True]), torch.tensor([True, True, False])])
    hold_masked_prompts(optimizer, model.prompts)
    _steps(model, optimizer)
    between = model.prompts.values.detach().clone()
    model.prompts.apply_mask(list(KEEP))
    hold_masked_prompts(optimizer, model.prompts)
    _steps(model, optimizer)
    after = model.prompts.values.detach()
    assert torch.equal(after[1, 2], before[1, 2])
    assert torch.equal(after[~KEEP], between[~KEEP])
    assert not torch.equal(between[0, 1], before[0, 1])


def test_nothing_is_held_while_every_prompt_is_kept() -> None:
    model = _model()
    optimizer = _sgd(parameter_groups(model, 0.0))
    hold_masked_prompts(optimizer, model.prompts)
    before = model.prompts.values.detach().clone()
    _steps(model, optimizer, 1)
    assert (model.prompts.values.detach() != before).any(2).all()

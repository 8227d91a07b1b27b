"""Every argument of torch's optimizers acts in a recipe, or is refused."""

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from pcvpt.errors import UsageError
from pcvpt.models import create_model
from pcvpt.training.recipe import PhaseRecipe

REFUSED = {"lr", "weight_decay", "differentiable"}
REFUSED_OPTIMIZERS = {"LBFGS", "Muon", "Rprop", "SparseAdam"}
ARGUMENTS: dict[str, Any] = {  # with a value that is no default
    "lr": 0.03,
    "weight_decay": 0.03,
    "differentiable": True,
    "alpha": 0.7,
    "amsgrad": True,
    "beta2_decay": -0.7,
    "betas": (0.8, 0.98),
    "capturable": True,
    "centered": True,
    "d": 2.0,
    "dampening": 0.1,
    "decoupled_weight_decay": True,
    "eps": 1e-4,
    "foreach": True,
    "fused": True,
    "initial_accumulator_value": 0.1,
    "lambd": 0.01,
    "lr_decay": 0.1,
    "maximize": True,
    "momentum": 0.9,
    "momentum_decay": 0.01,
    "nesterov": True,
    "rho": 0.8,
    "t0": 3.0,
}
OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer
}
GIVEN = [
    (name, argument)
    for name, kind in OPTIMIZERS.items()
    if name not in REFUSED_OPTIMIZERS
    for argument in inspect.signature(kind).parameters
    if argument != "params"
]


@pytest.mark.parametrize(("name", "argument"), GIVEN)
def test_an_argument_of_an_optimizer_acts_or_is_refused(name: str, argument: str) -> None:
    assert argument in ARGUMENTS, "a new argument of torch: does it act? add it to the table"
    value = (None, 0.01) if (name, argument) == ("Adafactor", "eps") else ARGUMENTS[argument]
    with_it = {"momentum": 0.9} if argument == "nesterov" else {}
    optimizer: Any = partial(OPTIMIZERS[name], **with_it, **{argument: value})
    if argument in REFUSED:
        with pytest.raises(UsageError, match=argument):
            PhaseRecipe(optimizer)
        return
    recipe = PhaseRecipe(optimizer, base_lr=0.5, weight_decay=0.25)
    size: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "pretrained": False}
    built, _ = recipe.build(create_model("vit_demo_patch8_32", 5, 3, **size), 256, 10, 5.0)
    assert [group[argument] for group in built.param_groups] == [value] * 2
    assert [group["weight_decay"] for group in built.param_groups] == [0.25, 0.0]
    assert built.param_groups[0]["initial_lr"] == 0.5


@pytest.mark.parametrize("name", sorted(REFUSED_OPTIMIZERS & OPTIMIZERS.keys()))
def test_an_optimizer_that_cannot_follow_a_recipe_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="optimizer: "):
        PhaseRecipe(OPTIMIZERS[name])


def test_a_weight_decay_that_the_optimizer_does_not_have_is_refused() -> None:
    class Plain(torch.optim.SGD):
        def __init__(self, params: Any) -> None:
            super().__init__(params)
            del self.defaults["weight_decay"]

    PhaseRecipe(Plain)
    with pytest.raises(UsageError, match=r"weight_decay=0.1, but Plain has none; give 0"):
        PhaseRecipe(Plain, weight_decay=0.1)


def test_a_rate_that_is_given_is_refused_also_if_it_is_the_usual_one() -> None:
    with pytest.raises(UsageError, match=r"lr=0.001 would do nothing.* give base_lr"):
        PhaseRecipe(partial(torch.optim.AdamW, lr=1e-3))


def test_an_argument_that_the_optimizer_requires_is_not_refused() -> None:
    class Strict(torch.optim.SGD):
        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, lr)

    PhaseRecipe(partial(Strict, lr=0.1))

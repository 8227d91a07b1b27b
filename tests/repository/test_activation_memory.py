"""What is held for backward, against sums by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcvpt.models import create_model

LABEL, FLOAT = 8, 4


def _loss(batch: int, classes: int) -> int:
    """Return the bytes that cross-entropy holds: its log-probabilities, labels and total weight."""
    return batch * classes * FLOAT + batch * LABEL + FLOAT


@pytest.fixture
def held_for_backward(benchmarks: Any) -> Any:
    return benchmarks.activation_memory.held_for_backward


def _batch(size: int, *shape: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(size, *shape), torch.randint(0, classes, (size,))


def test_the_inputs_of_layers_are_held_and_parameters_are_not(held_for_backward: Any) -> None:
    model = nn.Sequential(nn.Linear(7, 11), nn.GELU(), nn.Linear(11, 5))
    inputs = 3 * FLOAT * (7 + 11 + 11)  # of the layers, and what GELU needs
    assert held_for_backward(model, *_batch(3, 7)) == inputs + _loss(3, 5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_layers_need_no_inputs(held_for_backward: Any) -> None:
    model = nn.Sequential(nn.Linear(7, 11), nn.Linear(11, 13), nn.Linear(13, 5))
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    assert held_for_backward(model, *_batch(3, 7)) == 3 * FLOAT * 13 + _loss(3, 5)


def test_memory_that_several_tensors_look_into_counts_once_and_whole(
    held_for_backward: Any,
) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            left, right = x[:, :5], x[:, 5:10]  # of 12 columns
            return left @ self.weight + right @ self.weight

    assert held_for_backward(Shared(), *_batch(3, 12)) == 3 * 12 * FLOAT + _loss(3, 5)


def test_every_further_image_adds_the_same(held_for_backward: Any) -> None:
    model = create_model("vit_demo_patch8_32", 5, 4, depth=2, pretrained=False).train()
    one, two, three = (held_for_backward(model, *_batch(n, 3, 32, 32)) for n in (1, 2, 3))
    assert three - two == two - one > 0

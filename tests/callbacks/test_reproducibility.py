from collections.abc import Callable
from typing import Any

import lightning
import torch

from pcvpt import PromptCondensation, PromptTuner

Fit = Callable[..., Any]


def _weights(
    fit: Fit, tuner: Callable[..., PromptTuner], seed: int = 0, **options: Any
) -> dict[str, torch.Tensor]:
    lightning.seed_everything(seed, verbose=False)
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    _, module, _ = fit(condense, tuner(prompt_dropout=0.3), seed=seed, **options)
    return {name: value.clone() for name, value in module.named_parameters() if value.requires_grad}


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[bool]:
    return [torch.equal(first[name], second[name]) for name in first]


def test_a_seed_reproduces_a_run_bit_for_bit_and_others_differ(
    fit: Fit, tuner: Callable[..., PromptTuner]
) -> None:
    first, again, other = (_weights(fit, tuner, seed) for seed in (7, 7, 8))
    assert all(_same(first, again))
    assert not any(_same(first, other))


def test_the_seed_of_the_run_draws_the_dropout(fit: Fit, tuner: Callable[..., PromptTuner]) -> None:
    def prompts(seed: int) -> torch.Tensor:
        torch.manual_seed(0)  # the same initial values
        _, _, watch = fit(
            PromptCondensation(keep=None, prompt_epochs=1), tuner(prompt_dropout=0.5), seed=seed
        )
        return watch.prompts[1]

    assert torch.equal(prompts(1), prompts(1))
    assert not torch.equal(prompts(1), prompts(2))


def test_the_seed_of_the_data_changes_order_and_augmentation(
    fit: Fit, tuner: Callable[..., PromptTuner], task: Callable[..., Any]
) -> None:
    first, other = (_weights(fit, tuner, data=task(seed=seed)) for seed in (0, 1))
    assert not all(_same(first, other))

"""A model frozen for serving is the same function, without what only training needs."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from miniature.backbones import (
    MODES,
    WAYS,
    assert_close,
    build,
    images,
    logits,
    masked,
    without_prompts,
)
from pcvpt.condensation import score_prompts
from pcvpt.errors import UsageError
from pcvpt.models.prompt_keys_values import PromptKeysValues


@pytest.mark.parametrize(("mode", "execution"), WAYS)
def test_frozen_is_the_same_function(backbone: str, mode: str, execution: str) -> None:
    model = masked(build(backbone, mode=mode, execution=execution, prompt_dropout=0.3)).train()
    expected = logits(copy.deepcopy(model).eval())
    assert model.freeze_prompts() is model
    assert_close(logits(model), expected)
    assert model.prompts.counts() == [3, 0, 1][: len(model.prompts.keep)]


def test_keys_and_values_are_not_computed_again(backbone: str) -> None:
    model = masked(build(backbone)).freeze_prompts()
    if backbone.startswith("swin_pooled"):
        return  # the last block's prompts are read
    expected = logits(model)
    for _, values in model.prompts.runs():
        values.fill_(float("nan"))
    assert torch.equal(logits(model), expected)
    frozen = [m.frozen() for m in model.modules() if isinstance(m, PromptKeysValues)]
    counts = [0 if pair is None else pair[0].shape[2] for pair in frozen]
    assert counts == [3, 0, 1]


@pytest.mark.parametrize("mode", MODES)
def test_condensed_prompts_are_gone(mode: str) -> None:
    model = masked(build(mode=mode))
    kept = [model.prompts(layer, 1).detach().clone() for layer in range(len(model.prompts.keep))]
    model.freeze_prompts()
    assert model.prompts.values.shape[1] == 3
    for layer, values in enumerate(kept):
        assert torch.equal(model.prompts(layer, 1), values)
    assert int((model.prompts.values.abs().amax(2) > 0).sum()) == sum(map(len, kept))


def test_a_frozen_model_is_not_trained() -> None:
    model = build().freeze_prompts()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    with pytest.raises(UsageError, match="frozen"):
        model.train()
    with pytest.raises(UsageError, match="frozen"):
        model.execution = "tokens"
    assert model.eval() is model
    assert model.freeze_prompts() is model  # a second time is harmless


@pytest.mark.parametrize("mode", MODES)
def test_a_model_without_any_prompt_freezes_too(mode: str) -> None:
    for model in (build(mode="linear"), without_prompts(build(mode=mode))):
        expected = logits(model)
        assert_close(logits(model.freeze_prompts()), expected)


def test_frozen_prompts_follow_the_model() -> None:
    model = masked(build()).freeze_prompts()
    expected, batch = logits(model), images(model)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    assert model.double()(batch.double()).dtype == torch.float64
    other = masked(build()).freeze_prompts()
    other.load_state_dict(model.float().state_dict())  # the keys and values among it
    assert torch.equal(logits(other), logits(model))


def test_a_frozen_model_is_scored_as_before() -> None:
    model = build()
    data = [(images(model), torch.tensor([0, 1, 2]))]
    expected = torch.stack(score_prompts(model, data))
    found = torch.stack(score_prompts(model.freeze_prompts(), data))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("backbone", "mode"),
    [
        ("class_token", "deep"),
        *(
            pytest.param(backbone, mode, marks=pytest.mark.slow)
            for backbone in ("dinov3", "beit", "average_pooling")
            for mode in ("deep", "shallow")
        ),
        pytest.param("class_token", "shallow", marks=pytest.mark.slow),
        pytest.param("class_token", "prefix", marks=pytest.mark.slow),
        pytest.param("swin", "deep", marks=pytest.mark.slow),
    ],
)
def test_a_frozen_model_is_exported_for_any_batch(backbone: str, mode: str) -> None:
    model = masked(build(backbone, mode=mode)).freeze_prompts()
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (images(model, 4),), dynamic_shapes=({0: batch},))
    for count in (2, 5):
        assert_close(exported.module()(images(model, count)), logits(model, images(model, count)))


def test_nothing_is_changed_that_the_cache_would_not_follow() -> None:
    earlier, model = build().state_dict(), build().freeze_prompts()
    data = [(images(model), torch.tensor([0, 1, 2]))]
    changes: list[Callable[[], Any]] = [
        lambda: model.prompts.apply_mask(list(torch.ones_like(model.prompts.keep))),
        lambda: model.prompts.restore(model.prompts.snapshot()),
        lambda: model.load_state_dict(earlier, strict=False),
        lambda: score_prompts(model, data, "token"),
    ]
    for change in changes:
        with pytest.raises(UsageError, match="frozen"):
            change()

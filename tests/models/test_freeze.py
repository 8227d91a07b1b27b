"""A model frozen for serving is the same function, without what only training needs."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.condensation import score_prompts
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer, create_model
from pcvpt.models.prompt_keys_values import PromptKeysValues

KEEP = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)


def _masked(model: PromptedTransformer) -> PromptedTransformer:
    if model.mode != "linear":
        model.prompts.apply_mask(list(KEEP if model.mode == "deep" else KEEP[:1]))
    return model


@torch.no_grad()
def _logits(model: PromptedTransformer, images: Tensor) -> Tensor:
    return model(images)


def _swin(**options: Any) -> PromptedTransformer:
    torch.manual_seed(0)
    model = create_model(
        "swin_tiny_patch4_window7_224",
        5,
        4,
        pretrained=False,
        img_size=56,
        depths=(2, 1),
        embed_dim=24,
        num_heads=(2, 4),
        **options,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.3, 0.2)
    return model.eval()


def _close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("execution", ["prefix", "tokens"])
def test_frozen_is_the_same_function(
    build: Any, images: Any, backbone: str, mode: str, execution: str
) -> None:
    model = build(backbone, mode=mode, execution=execution, prompt_dropout=0.3)
    _masked(model).train()
    expected = _logits(copy.deepcopy(model).eval(), images(model))
    assert model.freeze_prompts() is model
    _close(_logits(model, images(model)), expected)


@pytest.mark.parametrize("pool_prompts", [False, True])
@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_frozen_swin_is_the_same_function(mode: str, pool_prompts: bool) -> None:
    model = _swin(mode=mode, pool_prompts=pool_prompts)
    keep = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    model.prompts.apply_mask(list(keep[: len(model.prompts.keep)]))
    images = torch.randn(2, 3, 56, 56)
    expected = _logits(model, images)
    model.freeze_prompts()
    _close(_logits(model, images), expected)
    assert model.prompts.counts() == [3, 0, 1][: len(model.prompts.keep)]


def test_keys_and_values_are_not_computed_again(build: Any, images: Any, backbone: str) -> None:
    model = _masked(build(backbone)).freeze_prompts()
    expected = _logits(model, images(model))
    for _, values in model.prompts.runs():
        values.fill_(float("nan"))
    assert torch.equal(_logits(model, images(model)), expected)
    frozen = [m.frozen() for m in model.modules() if isinstance(m, PromptKeysValues)]
    assert [None if pair is None else pair[0].shape[2] for pair in frozen] == [3, None, 1]


def test_condensed_prompts_are_gone(build: Any, mode: str) -> None:
    model = _masked(build(mode=mode))
    kept = [model.prompts(layer, 1).detach().clone() for layer in range(len(model.prompts.keep))]
    model.freeze_prompts()
    assert model.prompts.values.shape[1] == 3
    assert model.prompts.counts() == ([3, 0, 1] if mode == "deep" else [3])
    for layer, values in enumerate(kept):
        assert torch.equal(model.prompts(layer, 1), values)
    assert int((model.prompts.values.abs().amax(2) > 0).sum()) == sum(map(len, kept))


def test_a_frozen_model_is_not_trained(build: Any, images: Any) -> None:
    model = build().freeze_prompts()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    with pytest.raises(UsageError, match="frozen"):
        model.train()
    with pytest.raises(UsageError, match="frozen"):
        model.execution = "tokens"
    assert model.eval() is model
    assert model.freeze_prompts() is model  # a second time is harmless


def test_a_linear_probe_freezes_too(build: Any, images: Any) -> None:
    model = build(mode="linear", num_prompts=0)
    expected = _logits(model, images(model))
    assert torch.equal(_logits(model.freeze_prompts(), images(model)), expected)


def test_a_model_without_any_prompt_left_freezes_too(build: Any, images: Any, mode: str) -> None:
    model = build(mode=mode)
    model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep)))
    expected = _logits(model, images(model))
    _close(_logits(model.freeze_prompts(), images(model)), expected)


def test_frozen_prompts_follow_the_model(build: Any, images: Any) -> None:
    model = _masked(build()).freeze_prompts()
    expected = _logits(model, images(model))
    assert torch.equal(_logits(copy.deepcopy(model), images(model)), expected)
    assert model.double()(images(model).double()).dtype == torch.float64
    other = _masked(build()).freeze_prompts()
    other.load_state_dict(model.float().state_dict())  # the keys and values among it
    assert torch.equal(_logits(other, images(model)), _logits(model, images(model)))


def test_a_frozen_model_is_scored_as_before(build: Any, images: Any) -> None:
    model = build()
    data = [(images(model), torch.tensor([0, 1, 2]))]
    expected = torch.stack(score_prompts(model, data))
    found = torch.stack(score_prompts(model.freeze_prompts(), data))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("backbone", ["class_token", "dinov3", "beit", "average_pooling"])
def test_a_frozen_model_is_exported_for_any_batch(
    build: Any, images: Any, backbone: str, mode: str
) -> None:
    model = _masked(build(backbone, mode=mode)).freeze_prompts()
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (images(model, 4),), dynamic_shapes=({0: batch},))
    for count in (2, 5):
        _close(exported.module()(images(model, count)), _logits(model, images(model, count)))


def test_a_frozen_swin_is_exported_for_any_batch() -> None:
    model = _swin().freeze_prompts()
    batch = torch.export.Dim("batch", min=2, max=64)
    images = torch.randn(4, 3, 56, 56)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    _close(exported.module()(images[:3]), _logits(model, images[:3]))


def test_nothing_is_changed_that_the_cache_would_not_follow(build: Any, images: Any) -> None:
    earlier = build().state_dict()
    model = build().freeze_prompts()
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

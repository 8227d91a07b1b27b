"""timm's methods that return features: those of all tokens of the image, and of no prompt."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from miniature.backbones import (
    PROMPTS,
    WAYS,
    assert_close,
    build,
    images,
    logits,
    masked,
    plain,
    without_prompts,
)

every_way = pytest.mark.parametrize(("mode", "execution"), [*WAYS, ("linear", "prefix")])


def _parts(model: Any) -> Any:
    return getattr(model, "layers", model.blocks)


@torch.no_grad()
def _outputs(model: Any) -> list[Tensor]:
    """Return what leaves each block, in Swin each stage, where every row is computed."""
    seen: list[Tensor] = []
    handles = [
        part.register_forward_hook(
            lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for part in _parts(model)
    ]
    for block in model.blocks:
        block.lean = False
    model.forward(images(model))
    model.execution = model.execution
    for handle in handles:
        handle.remove()
    return seen


@every_way
def test_features_are_those_of_all_tokens_of_the_image(
    backbone: str, mode: str, execution: str
) -> None:
    model = build(backbone, mode=mode, execution=execution)
    expected, outputs, batch = logits(model), _outputs(masked(model)), images(model)
    expected = logits(model)
    with torch.no_grad():
        features = model.forward_features(batch)
        last, between = model.forward_intermediates(batch, norm=False)
        early = model.forward_intermediates(batch, [0], stop_early=True, intermediates_only=True)
    assert torch.equal(last, features)
    assert torch.equal(early[0], between[0])
    rows = features.shape[-2]
    assert_close(features, model.norm(outputs[-1][..., :rows, :]))
    for found, output in zip(between, outputs, strict=True):
        of_image = output.movedim(-1, 1)
        if output.ndim == 3:
            assert output.shape[1] - rows in (0, model.prompts.count(0) if mode != "linear" else 0)
            of_image = of_image[:, :, model.num_prefix_tokens : rows].unflatten(2, found.shape[2:])
        assert_close(found, of_image)
    if not getattr(model, "pool_prompts", False):
        assert_close(model.forward_head(features), expected)
    assert torch.equal(logits(model), expected)  # the context is left


@every_way
def test_without_prompts_every_feature_is_timms(backbone: str, mode: str, execution: str) -> None:
    model = build(backbone, mode=mode, execution=execution)
    if mode != "linear":
        without_prompts(model)
    own, batch = plain(model, backbone), images(model)
    calls = [
        lambda each: [each.forward_features(batch)],
        lambda each: each.forward_intermediates(batch, 2, norm=True, intermediates_only=True),
    ]
    if hasattr(own, "get_intermediate_layers"):
        calls.append(lambda each: each.get_intermediate_layers(batch, 2, norm=True))
        calls.append(partial(_with_prefix_tokens, batch))
    with torch.no_grad():
        for call in calls:
            for found, expected in zip(call(model), call(own), strict=True):
                assert_close(found, expected)


def _with_prefix_tokens(batch: Tensor, model: Any) -> list[Tensor]:
    pairs = model.forward_intermediates(batch, return_prefix_tokens=True, intermediates_only=True)
    return [part for pair in pairs for part in pair] if isinstance(pairs[0], tuple) else pairs


@pytest.mark.parametrize("mode", ["deep", "shallow"])
@pytest.mark.parametrize("backbone", ["class_token", "dinov3", "beit_shared_bias", "swin"])
def test_features_have_gradients_with_gradient_checkpointing_too(backbone: str, mode: str) -> None:
    model = build(backbone, mode=mode).train()
    found = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        features, between = model.forward_intermediates(images(model))
        (features.square().sum() + between[0].square().sum()).backward()
        found.append([values.grad.clone() for values in model.prompts.parameters()])
    assert model.prompts.keep.shape[1] == PROMPTS
    for first, second in zip(*found, strict=True):
        assert first.abs().max() > 0
        assert_close(second, first)

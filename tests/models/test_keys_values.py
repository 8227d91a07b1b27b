"""Prompts that are keys and values themselves: mode "prefix", and Deep after use_keys_values()."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from miniature.backbones import assert_close, build, images, logits, masked
from pcvpt.condensation import merge_prompts, score_prompts
from pcvpt.errors import UsageError

UNPOOLED = {"pool_prompts": False}  # a Swin that pools prompts needs tokens


def _pair(backbone: str) -> tuple[Any, Any]:
    """Return a Deep model with masked prompts, and the same with keys and values."""
    deep = masked(build(backbone, **(UNPOOLED if "swin" in backbone else {})))
    return deep, copy.deepcopy(deep).use_keys_values()


def test_the_function_stays_the_same(backbone: str) -> None:
    deep, own = _pair(backbone)
    assert own.prompts.form == "key_value"
    assert torch.equal(own.prompts.keep, deep.prompts.keep)
    assert_close(logits(own), logits(deep), "logits")
    frozen = copy.deepcopy(own).freeze_prompts()
    assert_close(logits(frozen), logits(own), "frozen")


def test_mode_prefix_starts_as_deep_and_its_keys_and_values_are_trained(backbone: str) -> None:
    model = build(backbone, mode="prefix").train()
    kept = masked(model)
    F.cross_entropy(kept(images(kept)), torch.arange(3)).backward()
    for layers, values in kept.prompts.runs():
        size = values.shape[2] // 2
        keep = kept.prompts.keep[layers]
        for part in values.grad[..., :size], values.grad[..., size:]:
            assert (part.abs().sum(2) > 0).equal(keep)
    bank = kept.prompts
    numbers = [2 * heads * width for heads, width in bank.heads]
    assert [bank.layer_values(layer).shape[1] for layer in range(len(bank.keep))] == numbers


def test_the_gate_of_a_key_and_value_is_that_of_its_token(backbone: str) -> None:
    deep, own = _pair(backbone)
    batch = images(deep), torch.arange(3)
    for first, second in zip(*(score_prompts(m, [batch]) for m in (deep, own)), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-7)


def test_a_deep_model_takes_the_state_of_one_with_keys_and_values_and_back() -> None:
    deep, own = _pair("class_token")
    expected, state, earlier = logits(own), own.state_dict(), copy.deepcopy(deep.state_dict())
    deep.load_state_dict(state)
    assert deep.prompts.form == "key_value"
    assert torch.equal(logits(deep), expected)
    deep.load_state_dict(earlier)
    assert deep.prompts.form == "token"


def test_elements_of_keys_and_values_drop_out_in_training() -> None:
    model = build(mode="prefix", prompt_dropout=0.5).train()
    values = model.prompts(0, batch=4)
    assert values.shape[0] == 4
    assert 0.3 < float((values == 0).float().mean()) < 0.7


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = build(mode="prefix").to(dtype)
    found = model(images(model).to(dtype))
    assert found.dtype == dtype
    assert bool(found.isfinite().all())


NARROW: dict[str, Any] = {"head_dim": 3}  # a key and a value are as wide as a token


def test_a_state_of_tokens_stays_one_where_keys_and_values_are_as_wide() -> None:
    model, other = build("swin", **NARROW), build("swin", **NARROW)
    model.prompts.values_0.data.neg_()
    other.load_state_dict(model.state_dict())
    assert other.prompts.form == "token"
    assert torch.equal(logits(other), logits(model))
    merged = merge_prompts(model, [(images(model),)], 0.5)
    model.prompts.apply_merge(merged)
    assert model.prompts.form == "token"


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("swin", NARROW, "so narrow that a key and a value together are as wide as a token"),
        ("class_token", {"mode": "shallow"}, "mode 'shallow' has no prompts that could be"),
        ("class_token", {"mode": "linear"}, "mode 'linear' has no prompts"),
        ("class_token", {"execution": "tokens"}, "execution='tokens' computes prompts as tokens"),
        ("swin", {"execution": "tokens"}, "execution='tokens' computes prompts as tokens"),
        ("swin_pooled", {}, "pool_prompts=True averages prompts"),
    ],
)
def test_prompts_that_can_not_be_keys_and_values_are_refused(
    backbone: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(backbone, **options).use_keys_values()


def test_keys_and_values_can_not_be_tokens_of_the_sequence() -> None:
    with pytest.raises(UsageError, match="mode 'prefix' has keys and values"):
        build(mode="prefix", execution="tokens")
    with pytest.raises(UsageError, match="the prompts are keys and values; use 'prefix'"):
        build(mode="prefix").execution = "tokens"
    with pytest.raises(UsageError, match="frozen"):
        build().freeze_prompts().use_keys_values()
    with pytest.raises(UsageError, match=r"pool_prompts=True.*needs prompts that are tokens"):
        build("swin").use_keys_values().pool_prompts = True


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("class_token", {"execution": "tokens"}, "execution='tokens' computes prompts as tokens"),
        ("swin_pooled", {}, "pool_prompts=True averages prompts"),
    ],
)
def test_a_model_that_needs_tokens_takes_no_state_of_keys_and_values(
    backbone: str, options: dict[str, Any], message: str
) -> None:
    _, own = _pair(backbone)
    model = build(backbone, **options)
    expected = logits(model)
    with pytest.raises(UsageError, match=message):
        model.load_state_dict(own.state_dict())
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("merged", [False, True])
def test_autocast_trains_and_evaluates_them(backbone: str, merged: bool) -> None:
    _, own = _pair(backbone)
    batch = images(own)
    if merged:
        own.prompts.apply_merge(merge_prompts(own, [(batch,)], 0.5))
    expected = logits(own)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(logits(own).float(), expected, tolerance=0.05)
        F.cross_entropy(own.train()(batch), torch.arange(3)).backward()
    assert any(values.grad.abs().max() > 0 for values in own.prompts.parameters())

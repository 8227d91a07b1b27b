"""A bank of merged prompts: what it holds, what it survives, and how it forgets a merge."""

import copy
import math
from typing import Any

import pytest
import torch

from miniature.backbones import assert_close, build, images, logits
from pcvpt.condensation import merge_prompts
from pcvpt.models.prompt_bank import MergedLayer


@pytest.mark.parametrize(
    ("mode", "form", "by_head"),
    [
        ("deep", "key_value", False),
        ("deep", "key_value", True),
        ("prefix", "key_value", True),
        ("deep", "token", False),
        ("shallow", "token", False),
    ],
)
def test_equal_prompts_are_one_with_the_logarithm_of_their_number(
    backbone: str, mode: str, form: str, by_head: bool
) -> None:
    options: dict[str, Any] = {"mode": mode}
    if form == "key_value":
        options |= {"pool_prompts": False}  # which needs tokens
    model = build(backbone, **options)
    bank, merged = model.prompts, []
    for layer in range(len(bank.keep)):
        values = bank.layer_values(layer).detach().clone()
        values[1:3] = values[0]
        bank.layer_values(layer).data.copy_(values)
        heads = bank.heads[layer][0] if by_head else 1
        weight = torch.tensor([[math.log(3), 0.0]]).expand(heads, -1)
        became = torch.tensor([[0, 0, 0, 1]]).expand(heads, -1)
        left = values[[0, 3]]
        if bank.form != form:
            pair = model.keys_values_of(layer, left)
            left = torch.cat([part.transpose(0, 1).flatten(1) for part in pair], dim=1).detach()
        merged.append(MergedLayer(left, weight, became, 0.0))
    expected = logits(model)
    bank.apply_merge(merged)
    assert bank.form == form
    assert bank.counts() == [2] * len(merged)
    assert_close(logits(model), expected)
    if form == "token":
        model.execution = "tokens"
        assert_close(logits(model), expected)
    assert_close(logits(model.freeze_prompts()), expected)
    unweighted = [part._replace(log_weight=torch.zeros_like(part.log_weight)) for part in merged]
    other = build(backbone, **options)
    other.prompts.apply_merge(unweighted)
    assert (logits(other) - expected).abs().max() > 1e-4 * expected.abs().max()


def test_a_merged_bank_has_its_values_in_front_and_says_what_each_prompt_became(
    mode: str,
) -> None:
    model = build(mode=mode)
    merged = merge_prompts(model, [(images(model),)], 0.5)
    bank = model.prompts
    bank.apply_merge(merged)
    front = torch.arange(4)
    for layer, part in enumerate(merged):
        count = len(part.values)
        assert torch.equal(bank.layer_values(layer)[:count], part.values.float())
        assert torch.equal(bank.keep[layer], front < count)
        assert bank.assignment is not None
        assert torch.equal(bank.assignment[layer].long(), part.assignment)
    before = logits(model)
    bank.drop_masked()
    assert_close(logits(model), before)


@pytest.mark.parametrize("backbone", ["class_token", "swin"])
def test_a_merge_survives_a_state_dict_and_a_copy(backbone: str, mode: str) -> None:
    model, other = build(backbone, mode=mode), build(backbone, mode=mode)
    whole = {name: value.clone() for name, value in other.state_dict().items()}
    model.prompts.apply_merge(merge_prompts(model, [(images(model),)], 0.5))
    expected, before = logits(model), logits(other)
    other.load_state_dict(model.state_dict())
    assert other.prompts.form == model.prompts.form
    assert torch.equal(logits(other), expected)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    frozen = copy.deepcopy(model).freeze_prompts()
    again = copy.deepcopy(frozen)
    again.load_state_dict(frozen.state_dict())
    assert torch.equal(logits(again), logits(frozen))
    other.load_state_dict(whole)  # and back to the prompts before
    assert other.prompts.form == "token"
    assert other.prompts.log_weight is None
    assert other.prompts.assignment is None
    assert other.prompts.counts() == [4] * len(other.prompts.keep)
    assert torch.equal(logits(other), before)
    assert not torch.equal(before, expected)


def test_a_new_form_forgets_values_and_stays_trainable_or_not() -> None:
    for trained in (True, False):
        model = build()
        bank = model.prompts.requires_grad_(trained)
        bank.apply_merge(merge_prompts(model, [(images(model),)], 0.25))
        for form, width in (("token", 48), ("key_value", 96)):
            bank.change_form(form)  # type: ignore[arg-type]
            assert bank.values.shape == (3, 4, width)
            assert not bank.values.any()
            assert bank.values.requires_grad == trained

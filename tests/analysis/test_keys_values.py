"""Analyses of prompts that are keys and values: what they find is what they find for the tokens."""

import copy
import math
from typing import Any, NamedTuple

import pytest
import torch

from pcvpt.analysis.attention import prompt_maps, rollout
from pcvpt.analysis.attention_matrices import watch_attention
from pcvpt.analysis.attention_spectrum import attention_spectrum
from pcvpt.analysis.cost import prefix_cost, tokens_cost
from pcvpt.analysis.forward_pass import attention_to_prompts
from pcvpt.analysis.layer_removal import layer_removals
from pcvpt.analysis.prompt_similarity import prompt_norms, prompt_similarity
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer
from pcvpt.models.prompt_bank import MergedLayer


class Pair(NamedTuple):
    """A Deep model, and the same with keys and values."""

    tokens: PromptedTransformer
    own: PromptedTransformer


def _pair(model: PromptedTransformer) -> Pair:
    return Pair(model, copy.deepcopy(model).use_keys_values())


def test_the_attention_to_prompts_is_that_to_their_tokens(
    build: Any, images: Any, mask_some: Any, seen_in: Any, family: str
) -> None:
    pair = _pair(build(family))
    (keep, _), x = map(mask_some, pair), images(pair.own)
    received = [attention_to_prompts(model, x) for model in pair]
    assert torch.equal(~received[1].isnan(), keep)
    torch.testing.assert_close(received[1], received[0], rtol=1e-4, atol=1e-6, equal_nan=True)
    for found, expected in zip(*(seen_in(model, x) for model in reversed(pair)), strict=True):
        assert (found.layer, found.prompts) == (expected.layer, expected.prompts)
        rows = found.weights.shape[3] - found.prompts
        close = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(
            found.weights[..., :rows, :], expected.weights[..., :rows, :], **close
        )
        assert not found.weights[..., rows:, :].any()  # a key and a value have no query
    logits = watch_attention(pair.own, x, lambda _: None)
    with torch.no_grad():
        torch.testing.assert_close(logits, pair.own(x), rtol=1e-4, atol=1e-4)


def test_maps_and_rollouts_are_those_of_tokens_but_for_what_prompts_attend_to(
    build: Any, images: Any, mask_some: Any, plain_family: str
) -> None:
    pair = _pair(build(plain_family))
    for model in pair:
        mask_some(model)
    x, chosen = images(pair.own), [(2, 3), (0, 2)]
    tokens, own = (prompt_maps(model, x, chosen) for model in pair)
    assert tokens.from_prompts is not None
    assert own.from_prompts is None
    torch.testing.assert_close(own.to_prompts, tokens.to_prompts, rtol=1e-4, atol=1e-6)
    for prompts in True, False:
        for found, expected in zip(
            *(rollout(model, x, prompts) for model in reversed(pair)), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_merged_prompt_receives_what_its_prompts_received(
    build: Any, images: Any, family: str
) -> None:
    model = build(family)
    bank, merged = model.prompts, []
    for layer in range(len(bank.keep)):
        values = bank.layer_values(layer).detach().clone()
        values[1:3] = values[0]
        bank.layer_values(layer).data.copy_(values)
    own = copy.deepcopy(model).use_keys_values()
    for layer, (heads, _) in enumerate(own.prompts.heads):
        weight = torch.tensor([[math.log(3), 0.0]]).expand(heads, -1)
        became = torch.tensor([[0, 0, 0, 1]]).expand(heads, -1)
        merged.append(MergedLayer(own.prompts.layer_values(layer)[[0, 3]], weight, became, 0.0))
    own.prompts.apply_merge(merged)
    x = images(model)
    received, of_each = attention_to_prompts(own, x)[:, :2], attention_to_prompts(model, x)
    sums = torch.stack([of_each[:, :3].sum(1), of_each[:, 3]], dim=1)
    torch.testing.assert_close(received, sums, rtol=1e-4, atol=1e-6)
    if family != "swin":
        found, expected = rollout(own, x), rollout(model, x)
        torch.testing.assert_close(found.patches, expected.patches, rtol=1e-4, atol=1e-6)
        total = expected.prompts[..., :3].sum(2)
        torch.testing.assert_close(found.prompts[..., 0], total, rtol=1e-4, atol=1e-6)


def test_the_prompts_of_a_block_are_worth_what_the_tokens_are(
    build: Any, images: Any, mask_some: Any
) -> None:
    pair = _pair(build())
    for model in pair:
        mask_some(model)
    x = images(pair.own, 40)
    with torch.no_grad():
        labels = pair.tokens(x).argmax(1)
    tokens, own = (layer_removals(model, [(x, labels)]) for model in pair)
    assert own == tokens
    assert own.untouched == 100
    assert min(own.none, *own.without, *own.only) < 100  # prompts matter


def test_similarities_and_norms_are_those_of_keys_and_values(build: Any, mask_some: Any) -> None:
    model = build("swin", mode="prefix")
    mask_some(model)
    bank = model.prompts
    cosines, layers = prompt_similarity(bank)
    assert layers.tolist() == [0] * 3 + [2] * 2 + [3] * 4
    kept = [bank.layer_values(layer)[bank.keep[layer]] for layer in range(4)]
    pair = torch.cosine_similarity(kept[2][0], kept[2][1], dim=0)
    torch.testing.assert_close(cosines[3, 4], pair.detach())
    norms = torch.stack([values.norm(dim=1).mean() for values in kept])
    torch.testing.assert_close(prompt_norms(bank), norms.detach(), equal_nan=True)


def test_a_prompt_has_twice_the_numbers_and_costs_no_more(build: Any, family: str) -> None:
    tokens, own = (build(family, mode=mode) for mode in ("deep", "prefix"))
    found, deep = prefix_cost(own), prefix_cost(tokens)
    heads = sum(2 * heads * width * 4 for heads, width in own.prompts.heads)
    assert sum(block.trained for block in found.blocks) == heads
    assert heads == 2 * sum(block.trained for block in deep.blocks)
    assert found.frozen == deep.frozen
    # Attention costs the same, and nothing has to be computed once for a batch.
    assert found.macs == deep.macs - deep.shared
    assert found.shared == 0
    assert tokens_cost(own) == tokens_cost(tokens)


def test_there_is_no_spectrum_without_queries(build: Any, images: Any) -> None:
    model = build(mode="prefix")
    with pytest.raises(UsageError, match="keys and values have no queries"):
        attention_spectrum(model, images(model))

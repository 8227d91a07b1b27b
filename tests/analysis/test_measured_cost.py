"""Measured costs, by what must hold on any machine."""

from typing import Any

import pytest
import torch

from pcvpt.analysis.cost import prefix_cost, tokens_cost
from pcvpt.analysis.measured_cost import Form, forms, measure_costs, with_prompts
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer, create_model


def _demo(**options: Any) -> PromptedTransformer:
    arguments = {"num_prompts": 4, "depth": 3, "pretrained": False, **options}
    return create_model("vit_demo_patch8_32", 10, **arguments)


@pytest.mark.parametrize(
    "mode",
    ["deep", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("prefix", "shallow"))],
)
def test_both_forms_of_each_number_are_measured_and_what_is_kept(mode: str) -> None:
    execution: Any = "prefix" if mode == "prefix" else "tokens"
    model = _demo(mode=mode, execution=execution).train()
    layers = len(model.prompts.keep)
    mask = torch.tensor([[True, False, True, False]] * layers)
    model.prompts.apply_mask(list(mask))
    found = measure_costs(forms(model, [0, 4, 16]), [1, 2], repeats=1)
    assert [(one.form, one.prompts_per_layer, one.prompts) for one in found] == [
        *((form, n, n * layers) for form in ("tokens", "prefix") for n in (0, 4, 16)),
        ("condensed", 2, 2 * layers),
    ]
    # The model is left as it was.
    assert model.training
    assert model.execution == execution
    assert torch.equal(model.prompts.keep, mask)
    assert all(p.requires_grad and p.grad is None for p in model.prompts.parameters())
    by_form = {(one.form, one.prompts_per_layer): one for one in found}
    assert by_form["tokens", 4].multiply_accumulates == tokens_cost(model).macs
    assert by_form["prefix", 4].multiply_accumulates == prefix_cost(model).macs
    assert by_form["prefix", 4].once_per_batch == prefix_cost(model).shared
    assert all(list(one.seconds) == [1, 2] for one in found)
    for one in found:
        own = mode == "prefix" and one.form != "tokens"  # a key and a value each
        assert one.numbers_of_prompts == one.prompts * 160 * (1 + own)
    memory = {key: one.memory_bytes_per_image for key, one in by_form.items()}
    assert memory["tokens", 16] > memory["tokens", 4] > memory["tokens", 0]
    if mode == "prefix":
        assert by_form["prefix", 4].once_per_batch == 0
    if mode == "deep":
        more, few = (by_form["prefix", n].memory_bytes_once_per_batch for n in (16, 4))
        # At least its normalised values, 160 floats in each of 3 blocks, for the keys' gradient.
        assert more - few >= 3 * 12 * 160 * 4
        attended = memory["prefix", 16] - memory["prefix", 4]
        assert 0 <= attended < (memory["tokens", 16] - memory["tokens", 4]) / 10
        # Nothing of a linear probe but its features.
        assert memory["tokens", 0] < memory["prefix", 4] / 10


@pytest.mark.parametrize("family", ["registers", pytest.param("swin", marks=pytest.mark.slow)])
def test_each_family_has_a_model_like_it(build: Any, family: str) -> None:
    model = build(family, prompt_dropout=0.1)
    (one, *_) = measure_costs(forms(model, [7])[:1], [1], 1)
    like = with_prompts(model, 7)
    assert like.prompts.keep.shape == (len(model.prompts.keep), 7)
    assert like.prompts.dropout == 0.1
    assert like.patch_embed.img_size == model.patch_embed.img_size
    assert like.mode == model.mode
    assert one.multiply_accumulates == tokens_cost(like).macs


def test_bad_numbers_linear_probes_and_frozen_prompts_are_refused() -> None:
    model = _demo()
    with pytest.raises(UsageError, match="at least 0"):
        forms(model, [-1])
    with pytest.raises(UsageError, match="linear probe"):
        with_prompts(_demo(mode="linear", num_prompts=0), 4)
    plan = forms(model, [1])
    for batches, repeats in ([0], 1), ([1], 0):
        with pytest.raises(UsageError, match="give at least 1"):
            measure_costs(plan, batches, repeats)
    frozen = _demo().eval().freeze_prompts()
    with pytest.raises(UsageError, match="frozen"):
        measure_costs([Form("prefix", frozen, frozen.prompts.keep, "prefix")], [1], 1)

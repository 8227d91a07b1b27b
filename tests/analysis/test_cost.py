"""Multiply-accumulates against Table 1 of Kim et al., arXiv 2305.17223, and counts by hand."""

from typing import Any

import pytest
import torch

from pcvpt.analysis.cost import multiply_accumulates
from pcvpt.models import PromptedVisionTransformer, create_model

N, D, DEPTH, HIDDEN, CLASSES = 17, 160, 3, 640, 10


def _demo(**options: Any) -> PromptedVisionTransformer:
    arguments = {"num_prompts": 6, "depth": DEPTH, "pretrained": False, **options}
    return create_model("vit_demo_patch8_32", CLASSES, **arguments)


def _block(rows: int, keys: int, prompts_as_keys: int = 0) -> int:
    """Count a block of ``rows`` output tokens whose attention has ``keys`` keys in all."""
    projected = keys - prompts_as_keys
    query_key_value = rows * D * D + 2 * projected * D * D + 2 * prompts_as_keys * D * D
    attention = 2 * rows * keys * D
    return query_key_value + attention + rows * D * D + 2 * rows * D * HIDDEN


STEM_AND_HEAD = 16 * (3 * 8 * 8) * D + D * CLASSES


@pytest.mark.parametrize(
    ("mode", "execution", "blocks"),
    [
        ("deep", "tokens", 3 * _block(N + 6, N + 6)),
        ("deep", "prefix", 2 * _block(N, N + 6, 6) + _block(1, N + 6, 6)),
        ("shallow", "tokens", 3 * _block(N + 6, N + 6)),
        ("shallow", "prefix", 2 * _block(N + 6, N + 6) + _block(1, N + 6)),
    ],
)
def test_counts_by_hand(mode: str, execution: str, blocks: int) -> None:
    model = _demo(mode=mode, execution=execution)
    assert multiply_accumulates(model) == blocks + STEM_AND_HEAD


def test_a_mask_lowers_the_count() -> None:
    model = _demo(mode="deep")
    keep = [torch.arange(6) < count for count in (2, 0, 4)]
    model.prompts.apply_mask(keep)
    blocks = _block(N, N + 2, 2) + _block(N, N) + _block(1, N + 4, 4)
    assert multiply_accumulates(model) == blocks + STEM_AND_HEAD


def test_counting_leaves_the_model_as_it_was() -> None:
    model = _demo(prompt_dropout=0.1).train()
    modes = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    multiply_accumulates(model)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.fixture(scope="module")
def vit_base() -> PromptedVisionTransformer:
    """ViT-B/16 with 200 prompts; its weights are zeros, as they do not count."""
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224", 1000, 200, pretrained=False)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.zero_()
    return model


def _billions(model: PromptedVisionTransformer, num_prompts: int, execution: Any) -> float:
    model.execution = execution
    model.prompts.apply_mask([torch.arange(200) < num_prompts] * 12)
    return multiply_accumulates(model) / 1e9


# The paper's figures, rounded there, and the formula behind them.
@pytest.mark.parametrize(
    ("num_prompts", "published", "computed"),
    [
        (0, 17.6, 17.563),
        (50, 22.2, 22.219),
        pytest.param(100, 26.9, 26.967, marks=pytest.mark.slow),
        pytest.param(150, 31.8, 31.807, marks=pytest.mark.slow),
        (200, 36.7, 36.740),
    ],
)
def test_prompts_as_tokens_cost_what_the_paper_says(
    vit_base: PromptedVisionTransformer, num_prompts: int, published: float, computed: float
) -> None:
    counted = _billions(vit_base, num_prompts, "tokens")
    assert counted == pytest.approx(published, rel=5e-3)
    assert counted == pytest.approx(computed, rel=5e-4)


def test_two_hundred_prompts_as_keys_cost_only_their_own_keys_and_values(
    vit_base: PromptedVisionTransformer,
) -> None:
    """One image alone has to pay for them here; a batch shares the projections."""
    bare, prompted = _billions(vit_base, 0, "prefix"), _billions(vit_base, 200, "prefix")
    projections, attention = 24 * 200 * 768**2, 2 * 200 * 768 * (11 * 197 + 1)
    assert prompted - bare == pytest.approx((projections + attention) / 1e9, rel=1e-9)


def test_a_linear_probe_in_prefix_saves_the_rows_of_the_last_block() -> None:
    tokens = multiply_accumulates(_demo(mode="linear", num_prompts=0, execution="tokens"))
    prefix = multiply_accumulates(_demo(mode="linear", num_prompts=0, execution="prefix"))
    assert tokens == 3 * _block(N, N) + STEM_AND_HEAD
    assert prefix == 2 * _block(N, N) + _block(1, N) + STEM_AND_HEAD


def test_the_cost_does_not_depend_on_the_precision() -> None:
    model = create_model("vit_tiny_patch16_224", 3, 4, pretrained=False, img_size=32, depth=2)
    single = multiply_accumulates(model)
    assert multiply_accumulates(model.bfloat16()) == single

"""Multiply-accumulates against Table 1 of Kim et al., arXiv 2305.17223, and counts by hand."""

from functools import cache
from typing import Any

import pytest
import torch

from pcvpt.analysis import mac_counting
from pcvpt.analysis.cost import bare_cost, condensed_cost, prefix_cost, tokens_cost
from pcvpt.analysis.mac_counting import macs_by_block, without_weights
from pcvpt.data.published_results import read_table
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer, create_model

N, D, DEPTH, HIDDEN, CLASSES = 17, 160, 3, 640, 10
STEM_AND_HEAD = 16 * (3 * 8 * 8) * D + D * CLASSES


def _demo(**options: Any) -> PromptedTransformer:
    arguments = {"num_prompts": 6, "depth": DEPTH, "pretrained": False, **options}
    return create_model("vit_demo_patch8_32", CLASSES, **arguments)


def _block(rows: int, keys: int, prompts_as_keys: int = 0) -> int:
    """Count a block of ``rows`` output tokens whose attention has ``keys`` keys in all."""
    projected = keys - prompts_as_keys
    query_key_value = rows * D * D + 2 * projected * D * D + 2 * prompts_as_keys * D * D
    attention = 2 * rows * keys * D
    return query_key_value + attention + rows * D * D + 2 * rows * D * HIDDEN


def _last(n: int, prompts: int = 0) -> int:
    """Count the last block, of which one row is pooled: no token's key or value is computed."""
    heads = 5
    linear = 4 * D * D + 2 * D * HIDDEN + 2 * prompts * D * D
    return linear + 2 * heads * n * D + 2 * prompts * D


def _on_meta(backbone: str, classes: int, prompts: int, **options: Any) -> PromptedTransformer:
    with torch.device("meta"):
        return create_model(backbone, classes, prompts, pretrained=False, **options)


@pytest.mark.parametrize(
    ("mode", "execution", "blocks"),
    [
        ("deep", "tokens", 3 * [_block(N + 6, N + 6)]),
        ("deep", "prefix", [*2 * [_block(N, N + 6, 6)], _last(N, 6)]),
        ("shallow", "tokens", 3 * [_block(N + 6, N + 6)]),
        ("shallow", "prefix", [*2 * [_block(N + 6, N + 6)], _last(N + 6)]),
    ],
)
def test_counts_are_those_of_a_formula(mode: str, execution: str, blocks: list[int]) -> None:
    model = _demo(mode=mode, execution="tokens" if execution == "prefix" else "prefix")
    model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep)))
    cost = {"tokens": tokens_cost, "prefix": prefix_cost}[execution](model)
    assert [block.macs for block in cost.blocks] == blocks
    assert cost.macs == sum(blocks) + STEM_AND_HEAD
    if mode == "shallow":  # prompts enter the first block
        entering = [(block.prompts, block.trained) for block in cost.blocks]
        assert entering == [(6, 6 * D), (0, 0), (0, 0)]
        assert cost.shared < 2 * 6 * D * D + 6 * D * D


def test_condensed_prompts_leave_the_count_by_mask_and_by_number() -> None:
    model, counts, head = _demo(), (2, 0, 4), D * CLASSES + CLASSES
    blocks = [_block(N, N + 2, 2), _block(N, N), _last(N, 4)]
    masks = [torch.arange(6) >= 6 - count for count in counts]
    cost = condensed_cost(model, counts)
    assert [block.macs for block in cost.blocks] == blocks
    assert [block.prompts for block in cost.blocks] == [*counts]
    assert [block.trained for block in cost.blocks] == [count * D for count in counts]
    assert [block.frozen for block in cost.blocks] == [
        4 * D * D + 2 * D * HIDDEN + 9 * D + HIDDEN
    ] * 3
    assert [block.name for block in cost.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    assert (cost.prompts, cost.trained) == (6, 6 * D + head)
    assert cost.frozen == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    # A batch computes the keys and values of prompts once.
    assert cost.shared == 2 * 6 * D * D
    assert condensed_cost(model, masks) == cost
    model.prompts.apply_mask(masks)
    assert macs_by_block(without_weights(model), images=1)[""] == cost.macs
    tokens = condensed_cost(model, counts, "tokens")
    assert [block.macs for block in tokens.blocks] == [_block(N + p, N + p) for p in counts]
    bare = bare_cost(model)
    assert bare.macs == 3 * _block(N, N) + STEM_AND_HEAD
    assert bare.shared == tokens.shared == 0
    assert (bare.prompts, bare.trained) == (0, head)


@pytest.mark.parametrize("keep", [(1, 2), (1, 2, 7), (1, 2, -1), [torch.ones(5).bool()] * 3])
def test_what_does_not_fit_the_model_is_refused(keep: Any) -> None:
    with pytest.raises(UsageError, match=r"this model has"):
        condensed_cost(_demo(), keep)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = _demo(prompt_dropout=0.1, execution="tokens").train()
    model.prompts.apply_mask([torch.arange(6) < 3] * 3)
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: value.nan_to_num().clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    condensed_cost(model, (2, 0, 4))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert model.execution == "tokens"
    assert model.prompts.counts() == [3, 3, 3]
    assert all(torch.equal(v.nan_to_num(), state[k]) for k, v in model.state_dict().items())


def test_neither_weights_nor_precision_change_the_cost() -> None:
    hollow = _on_meta("vit_demo_patch8_32", CLASSES, 6, depth=DEPTH)
    assert tokens_cost(hollow) == tokens_cost(_demo().bfloat16())
    assert all(parameter.is_meta for parameter in hollow.parameters())


def test_a_linear_probe_in_prefix_saves_the_rows_of_the_last_block() -> None:
    model = _demo(mode="linear", num_prompts=0)
    assert bare_cost(model).macs == 3 * _block(N, N) + STEM_AND_HEAD
    cost = prefix_cost(model)
    assert cost.macs == 2 * _block(N, N) + _last(N) + STEM_AND_HEAD
    assert cost.trained == D * CLASSES + CLASSES


@pytest.mark.parametrize("execution", ["prefix", "tokens"])
@pytest.mark.parametrize(
    ("backbone", "mode"),
    [
        ("vit_demo_patch8_32", "shallow"),
        ("eva02_tiny_patch14_224", "deep"),
        ("swin_tiny_patch4_window7_224", "deep"),
        ("swin_tiny_patch4_window7_224", "shallow"),
    ],
)
def test_a_block_that_is_not_computed_again_costs_what_it_would(
    backbone: str, mode: str, execution: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, repeated = _on_meta(backbone, CLASSES, 4, mode=mode), mac_counting._repeated_blocks
    keep = [(2, 2, 4, 4, 4)[layer % 5] for layer in range(len(model.prompts.keep))]
    fast = condensed_cost(model, keep, execution)
    assert repeated(model)
    monkeypatch.setattr(mac_counting, "_repeated_blocks", lambda _: [])
    assert fast == condensed_cost(model, keep, execution)


@cache
def _billions(backbone: str, num_prompts: int, mode: str, layers: int) -> float:
    """Return the count with ``num_prompts`` tokens, which is the slow part of these tests."""
    model = _on_meta(backbone, 1000, num_prompts or 1, mode=mode)
    return condensed_cost(model, [num_prompts] * layers, "tokens").macs / 1e9


def _published() -> list[Any]:
    """Return (backbone, mode, layers, tolerance, prompts, billions) of ``seeds/gflops.csv``.

    Of Swin it is the release's insertion: prompts stand in every window, pass the MLPs once for an
    image, and go through every patch merging. Stem and head are in it: 0.1 % and below 0.01 %.
    """
    kinds = {
        "vit_b16": [("vit_base_patch16_224", "deep", 12, 5e-3)],
        "swin_b": [
            ("swin_base_patch4_window7_224", "shallow", 1, 5e-4),
            ("swin_base_patch4_window7_224", "deep", 24, 5e-4),
        ],
    }
    return [
        pytest.param(
            *kind,
            int(column),
            float(value),
            id=f"{row['backbone']}-{kind[1]}-{column}-{row['source']}",
            marks=[] if kind[2:] == (12, 5e-3) and column == "0" else pytest.mark.slow,
        )
        for row in read_table("gflops")
        for kind in kinds.get(row["backbone"], [])
        for column, value in row.items()
        if column.isdecimal() and value
    ]


@pytest.mark.parametrize(
    ("backbone", "mode", "layers", "tolerance", "num_prompts", "billions"), _published()
)
def test_prompts_as_tokens_cost_what_paper_and_release_say(
    backbone: str, mode: str, layers: int, tolerance: float, num_prompts: int, billions: float
) -> None:
    counted = _billions(backbone, num_prompts, mode, layers)
    assert counted == pytest.approx(billions, rel=tolerance)


@pytest.mark.slow
def test_two_hundred_prompts_as_keys_cost_only_their_own_keys_and_values() -> None:
    cost = prefix_cost(_on_meta("vit_base_patch16_224", 1000, 200))
    bare = 1e9 * _billions("vit_base_patch16_224", 0, "deep", 12)
    whole = 197 * (4 * 768**2 + 2 * 768 * 3072) + 2 * 197**2 * 768  # the last block
    pooled = 4 * 768**2 + 2 * 768 * 3072 + 2 * 12 * 197 * 768  # its one row that is read
    projections, attention = 24 * 200 * 768**2, 2 * 200 * 768 * (11 * 197 + 1)
    assert cost.macs == round(bare) - whole + pooled + projections + attention
    assert cost.shared == projections
    assert cost.macs - cost.shared < bare


@pytest.mark.slow
def test_the_papers_setting_trains_as_many_parameters_as_the_release_says() -> None:
    model = _on_meta("vit_base_patch16_224", 6, 100, img_size=32)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 926_214
    assert tokens_cost(model).trained == 926_214


@pytest.mark.slow
def test_swin_b_trains_as_many_parameters_for_each_prompt_as_its_blocks_are_wide() -> None:
    model = _on_meta("swin_base_patch4_window7_224", 6, 10, img_size=56, window_size=2)
    cost = tokens_cost(model)
    assert cost.trained == 10 * 12_032 + 6 * 1025
    assert [block.trained for block in cost.blocks] == [
        10 * width
        for width, depth in ((128, 2), (256, 2), (512, 18), (1024, 2))
        for _ in range(depth)
    ]
    assert cost.blocks[-1].name == "layers.3.blocks.1"


def test_what_a_trace_would_drop_is_counted() -> None:
    """A Deep Swin's tokens pass an MLP in every block, though the next block replaces them."""
    options = {"img_size": 16, "window_size": 2, "embed_dim": 8, "num_heads": (2,), "depths": (2,)}
    cost = tokens_cost(_on_meta("swin_tiny_patch4_window7_224", 3, 5, **options))
    windows, patches, width = 4, 4, 8
    rows = windows * (patches + 5)
    projections = rows * 4 * width**2
    attention = 2 * rows * (patches + 5) * width
    mlp = (windows * patches + 5) * 8 * width**2
    assert [block.macs for block in cost.blocks] == [projections + attention + mlp] * 2

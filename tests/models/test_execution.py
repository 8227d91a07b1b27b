"""Prompts as keys and values only ("prefix") are the same function as prompts as tokens."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcvpt.models import PromptedTransformer

# Kept prompts of each block; Shallow takes the second row.
MASKS = {
    "all_kept": [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]],
    "equal": [[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0]],
    "ragged": [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0]],
    "a_block_with_none": [[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]],
    "last_block_with_none": [[0, 0, 0, 1], [1, 0, 1, 1], [0, 0, 0, 0]],
}


def _mask(model: PromptedTransformer, name: str) -> None:
    rows = torch.tensor(MASKS[name], dtype=torch.bool)
    model.prompts.apply_mask(list(rows if model.mode == "deep" else rows[1:2]))


def _results(
    model: PromptedTransformer, execution: Any, images: Tensor, gated: bool
) -> dict[str, Tensor]:
    """Return logits, and gradients in prompts, head and, with a random gate, the gate."""
    model.execution = execution
    model.zero_grad()
    labels = torch.arange(len(images))
    generator = torch.Generator().manual_seed(3)
    gate = torch.randn(len(images), *model.prompts.keep.shape, generator=generator)
    gate.requires_grad_()
    torch.manual_seed(4)
    if gated:
        with model.prompts.gated(gate):
            logits = model(images)
    else:
        logits = model(images)
    F.cross_entropy(logits, labels).backward()
    results = {"logits": logits.detach(), "gate": gate.grad}
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert set(trained) == {"prompts.values", "head.weight", "head.bias"}
    return {k: v for k, v in {**results, **trained}.items() if v is not None}


def _assert_same(model: PromptedTransformer, images: Tensor, gated: bool) -> None:
    prefix = _results(model, "prefix", images, gated)
    tokens = _results(model, "tokens", images, gated)
    assert prefix.keys() == tokens.keys()
    for name, expected in tokens.items():
        error = (prefix[name] - expected).abs().max()
        assert error <= 2e-5 * expected.abs().max(), name


@pytest.mark.parametrize("mask", MASKS)
def test_prefix_equals_tokens(build: Any, images: Any, backbone: str, mode: str, mask: str) -> None:
    model = build(backbone, mode=mode)
    _mask(model, mask)
    _assert_same(model, images(model), gated=False)
    _assert_same(model, images(model), gated=True)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("backbone", ["class_token", "registers_and_layer_scale", "siglip"])
def test_prefix_equals_tokens_under_dropout(
    build: Any, images: Any, backbone: str, mode: str, mask: str
) -> None:
    model = build(backbone, mode=mode, prompt_dropout=0.3, drop_rate=0.2).train()
    _mask(model, mask)
    _assert_same(model, images(model), gated=False)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_prompts_and_gate_show_in_every_backbone(
    build: Any, images: Any, backbone: str, mode: str, dropout: float
) -> None:
    """Without this, the comparisons above might compare nothing."""
    model = build(backbone, mode=mode, prompt_dropout=dropout).train()
    results = _results(model, "prefix", images(model), gated=True)
    scale = results["logits"].std()
    for layer in range(len(model.prompts.values)):
        assert results["prompts.values"][layer].abs().max() > 1e-4
        assert results["gate"][:, layer].abs().max() > 1e-4
    with torch.no_grad():
        model.eval()
        whole = model(images(model))
        model.prompts.apply_mask([torch.zeros(4, dtype=torch.bool)] * len(model.prompts.keep))
        assert (model(images(model)) - whole).abs().max() > 1e-2 * scale


def test_switching_back_and_forth_changes_nothing(build: Any, images: Any, mode: str) -> None:
    model = build(mode=mode)
    with torch.no_grad():
        first = model(images(model))
        model.execution = "tokens"
        model.execution = "prefix"
        assert model.execution == "prefix"
        assert torch.equal(model(images(model)), first)


@pytest.mark.parametrize("backbone", ["class_token", "dinov3", "beit_shared_bias"])
def test_checkpointed_gradients_are_the_same(
    build: Any, images: Any, backbone: str, mode: str
) -> None:
    model = build(backbone, mode=mode, prompt_dropout=0.3).train()
    plain = _results(model, "prefix", images(model), gated=False)
    model.set_grad_checkpointing(True)
    checkpointed = _results(model, "prefix", images(model), gated=False)
    for name, expected in plain.items():
        torch.testing.assert_close(checkpointed[name], expected, msg=name)


def test_predictions_do_not_depend_on_the_batch(
    build: Any, images: Any, backbone: str, mode: str, execution: str
) -> None:
    model = build(backbone, mode=mode, execution=execution)
    batch = images(model)
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(image[None]) for image in batch])
    assert (together - alone).abs().max() <= 1e-5 * together.abs().max()
    assert (together[0] - together[1]).abs().max() > 1e-2 * together.abs().max()


def test_attention_maps_are_what_attention_does(
    build: Any, images: Any, backbone: str, mode: str, execution: str
) -> None:
    model = build(backbone, mode=mode, execution=execution)
    seen = []

    def record(attention: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        seen.append((attention, args[0], kwargs, output))

    for block in model.blocks:
        block.attn.register_forward_hook(record, with_kwargs=True)
    with torch.no_grad():
        model(images(model))
        assert len(seen) == len(model.blocks)
        for attention, x, context, output in seen:
            weights = attention.attention_map(x, **context)
            values = attention.project(x, **context).joined().v.squeeze(1)
            mixed = (weights @ values).transpose(1, 2).flatten(2)
            if hasattr(attention, "norm"):
                mixed = attention.norm(mixed)
            torch.testing.assert_close(attention.proj(mixed), output)
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_prompted_parts_take_no_attention_mask(build: Any, images: Any) -> None:
    model = build()
    mask = torch.zeros(5, 5)
    with pytest.raises(NotImplementedError, match="attention mask"):
        model(images(model), attn_mask=mask)
    with pytest.raises(NotImplementedError, match="attention mask"):
        model.blocks[0].attn(torch.zeros(1, 5, 48), attn_mask=mask)

"""The sampled rows: attention weights and effects against derivatives, and what the sample is."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.backbones import CLASSES, PROMPTS, assert_close, build, images, masked
from pcvpt.condensation import attention_rows, score_prompts
from pcvpt.condensation.attention_rows import Rows
from pcvpt.errors import UsageError
from pcvpt.models import joint_attention
from pcvpt.models.attention_hooks import attention_pre_hooks


@pytest.fixture
def all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample every row of an image."""
    monkeypatch.setattr(attention_rows, "_SAMPLE", 10**6)


def _rows(model: Any, batch: Tensor, **options: Any) -> list[Rows]:
    return attention_rows.attention_rows(model, [(batch,)], **options)


def _gate_gradients(model: Any, batch: Tensor) -> Tensor:
    """Return the derivative (c, b, l, p) of the log-likelihood of each label in each gate at 1."""
    found = []
    for label in range(CLASSES):
        gate = torch.zeros(len(batch), *model.prompts.keep.shape, dtype=batch.dtype)
        gate.requires_grad_()
        with model.prompts.gated(gate):
            likely = model(batch).log_softmax(1)[:, label].sum()
        found.append(torch.autograd.grad(likely, gate)[0])
    return torch.stack(found)


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.usefixtures("all_rows")
def test_shares_and_effects_add_up_to_the_derivative_in_the_gate(
    backbone: str, execution: str, with_mask: bool
) -> None:
    """Over all heads and rows, Σ a·g·(v - y) is the derivative of one label's log-likelihood."""
    model = build(backbone, execution=execution).double()
    if with_mask:
        masked(model)
    # Where the head reads the last block's prompts, their gate stands there, too.
    last = -1 if getattr(model, "pool_prompts", False) else None
    batch = images(model).double()
    expected = _gate_gradients(model, batch)[:, :, :last]
    rows = _rows(model, batch)
    found = torch.zeros(len(batch), *model.prompts.keep.shape, dtype=torch.float64)
    for layer, (log_share, effect, per_image) in enumerate(rows):
        product = (log_share.exp() * effect).unflatten(1, (len(batch), -1))  # h b r p
        assert product.shape[2] == per_image
        found[:, layer, model.prompts.keep[layer]] = product.sum((0, 2))
    apart = (found[:, :last] - expected).abs().amax((2, 3))  # of each label and image
    assert (apart.min(0).values < 1e-6 * expected.abs().max()).all()
    assert (apart.max(0).values > 1e-3 * expected.abs().max()).all()  # labels differ


@pytest.mark.usefixtures("all_rows")
def test_shares_are_the_attention_that_each_prompt_gets(backbone: str) -> None:
    model = build(backbone).double()
    batch = images(model).double()
    last = -1 if getattr(model, "pool_prompts", False) else None  # prompts have rows there
    found = [rows.log_share.exp().mean((0, 1)) for rows in _rows(model, batch)]
    scores = score_prompts(model, [(batch, torch.zeros(len(batch)))], "attention")
    assert_close(torch.stack(found)[:last], torch.stack(scores)[:last], tolerance=1e-8)


@pytest.mark.usefixtures("all_rows")
def test_in_shallow_rows_are_those_of_the_image_and_each_block_has_its_own(backbone: str) -> None:
    model = build(backbone, mode="shallow").double()
    batch, weights = images(model).double(), []

    def record(_: int, attention: Any, args: Any, kwargs: Any) -> None:
        of_all = attention.project(*args, **kwargs).weights()[..., -PROMPTS:]  # b w h r p
        weights.append(of_all)

    with torch.no_grad(), attention_pre_hooks(model, record):
        model(batch)
    for expected, (log_share, _, per_image) in zip(weights, _rows(model, batch), strict=True):
        rows = per_image // expected.shape[1]
        own = expected[:, :, :, :rows].permute(2, 0, 1, 3, 4).flatten(1, 3)  # those of prompts last
        assert expected.shape[3] in (rows, rows + PROMPTS)
        assert_close(log_share.exp().sort(1).values, own.sort(1).values, tolerance=1e-8)


def test_the_layout_of_a_gpu_s_attention_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("swin").double()
    batch = images(model).double()
    expected, attend = _rows(model, batch), joint_attention._fused_attention

    def heads_behind_tokens(*args: Any) -> Tensor:
        return attend(*args).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(joint_attention, "_fused_attention", heads_behind_tokens)
    for found, block in zip(_rows(model, batch), expected, strict=True):
        assert_close(found.effect, block.effect, tolerance=1e-8)


class OfEachBlock:
    """Gates of which each block takes the next, although all have the prompts of one layer."""

    def __init__(self, gates: Iterator[Tensor]) -> None:
        self.gates = gates

    def __getitem__(self, place: Any) -> Tensor:
        return next(self.gates)


@pytest.mark.usefixtures("all_rows")
def test_in_shallow_effects_are_derivatives_in_the_gate_of_one_block() -> None:
    """In the last block, which computes the class token alone."""
    model = build(mode="shallow").double()
    batch = images(model).double()
    log_share, effect, per_image = _rows(model, batch)[-1]
    assert per_image == 1
    found, expected = (log_share.exp() * effect).sum(0), []
    for label in range(CLASSES):
        gates = [torch.zeros(len(batch), PROMPTS).double().requires_grad_() for _ in model.blocks]
        turn = iter(gates)
        model.prompts.log_gate = OfEachBlock(turn)  # type: ignore[assignment]
        likely = model(batch).log_softmax(1)[:, label].sum()
        expected.append(torch.autograd.grad(likely, gates[-1])[0])
    apart = (found - torch.stack(expected)).abs().amax(2)
    assert (apart.min(0).values < 1e-6 * found.abs().max()).all()
    assert found.abs().max() > 1e-4


def test_a_sample_has_two_rows_of_each_image_and_knows_from_how_many(backbone: str) -> None:
    model = build(backbone)
    batch = images(model, 5)
    for block, (log_share, effect, per_image) in zip(
        model.blocks, _rows(model, batch), strict=True
    ):
        rows = min(2, per_image)
        heads = block.attn.num_heads
        assert log_share.shape == effect.shape == (heads, 5 * rows, 4)
        assert log_share.dtype == effect.dtype == torch.float64
        assert (log_share.exp().sum(2) < 1 + 1e-12).all()
        if rows == 2:
            assert (log_share[:, 0::2] != log_share[:, 1::2]).any()


def test_labels_are_drawn_from_the_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, drawn = build(), []
    original = F.cross_entropy

    def record(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
        drawn.append((logits.detach().softmax(1), labels))
        return original(logits, labels, **options)

    monkeypatch.setattr(F, "cross_entropy", record)
    model.head.weight.data.zero_()
    model.head.bias.data = torch.tensor([0.5, 0.3, 0.2, 1e-30, 1e-30]).log()
    _rows(model, images(model, 600))
    labels = torch.cat([part for _, part in drawn])
    shares = labels.bincount(minlength=CLASSES) / 600
    assert_close(shares, torch.tensor([0.5, 0.3, 0.2, 0, 0]), tolerance=0.15)
    assert len(drawn) == 19  # pieces of at most 32 images


def test_the_division_into_batches_does_not_matter_and_the_seed_does(backbone: str) -> None:
    model = build(backbone).double()
    batch = images(model, 6).double()
    whole = _rows(model, batch)
    for sizes in ([3, 1, 2], [1] * 6):
        parts = [(part,) for part in batch.split(sizes)]
        divided = attention_rows.attention_rows(model, parts)
        for one, other in zip(whole, divided, strict=True):
            assert_close(other.log_share, one.log_share, tolerance=1e-10)
            assert_close(other.effect, one.effect, tolerance=1e-6)
    assert all(
        torch.equal(a, b) for a, b in zip(whole[0][:2], _rows(model, batch)[0][:2], strict=True)
    )
    assert not torch.equal(whole[0].effect, _rows(model, batch, seed=1)[0].effect)


def test_gradient_checkpointing_changes_nothing_and_stays_on(backbone: str, mode: str) -> None:
    model = build(backbone, mode=mode)
    expected = _rows(model, images(model))
    model.set_grad_checkpointing(True)
    flags = [getattr(part, "grad_checkpointing", None) for part in model.modules()]
    assert True in flags
    for one, other in zip(expected, _rows(model, images(model)), strict=True):
        assert torch.equal(one.effect, other.effect)
    assert [getattr(part, "grad_checkpointing", None) for part in model.modules()] == flags


def test_shares_of_a_bfloat16_model_are_exact_logarithms() -> None:
    model = build()
    expected, batch = _rows(model, images(model)), images(model)
    for one, other in zip(expected, _rows(model.bfloat16(), batch), strict=True):
        assert (one.log_share - other.log_share).abs().max() < 0.1
        assert torch.unique(other.log_share).numel() > 0.9 * other.log_share.numel()


def test_no_images_and_images_that_are_not_normalised_are_refused() -> None:
    model = build()
    with pytest.raises(UsageError, match="no images"):
        attention_rows.attention_rows(model, [])
    with pytest.raises(UsageError, match="uint8"):
        _rows(model, images(model).to(torch.uint8))

"""The mask of kept prompts: what it removes, and what it survives."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniature.backbones import KEEP, WAYS, assert_close, build, images, logits, masked
from pcvpt.errors import UsageError
from pcvpt.models import PromptBank


@pytest.mark.parametrize(("mode", "execution"), WAYS)
@pytest.mark.parametrize("backbone", ["qk_norm", "dinov3", "beit"])
def test_masked_prompts_leave_the_sequence_and_the_last_block_computes_only_one_row(
    monkeypatch: pytest.MonkeyPatch, backbone: str, mode: str, execution: str
) -> None:
    # Normalised or rotated keys, for which the last block has no way around computing them.
    model = build(backbone, mode=mode, execution=execution)
    original, lengths = nn.functional.scaled_dot_product_attention, []

    def record(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        lengths.append((q.shape[2], k.shape[2]))
        return original(q, k, v, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", record)
    tokens = model.num_prefix_tokens + 4
    for counts in ([4, 4, 4], [3, 3, 3] if mode == "shallow" else [3, 0, 1]):
        lengths.clear()
        logits(model)
        keys = [tokens + count for count in counts]
        queries = [tokens] * 3 if execution == "prefix" and mode != "shallow" else keys.copy()
        if execution == "prefix":
            queries[-1] = 1
        assert lengths == list(zip(queries, keys, strict=True))
        masked(model)


@pytest.mark.parametrize(("mode", "execution"), WAYS)
@pytest.mark.parametrize("inference", [False, True])
def test_masked_values_count_for_nothing_and_get_a_gradient_of_zero(
    mode: str, execution: str, inference: bool
) -> None:
    model = build(mode=mode, execution=execution)
    with torch.inference_mode(inference):  # as in the validation of a training run
        before = logits(masked(model))
    keep = model.prompts.keep
    model.prompts.values.data[~keep] = float("nan")
    assert torch.equal(logits(model), before)
    model.train()(images(model)).square().sum().backward()
    gradient = model.prompts.values.grad
    assert (gradient[~keep] == 0).all()
    assert (gradient[keep].abs().amax(1) > 0).all()


@pytest.mark.parametrize(("mode", "execution"), WAYS)
def test_a_mask_equals_a_gate_of_minus_infinity(backbone: str, mode: str, execution: str) -> None:
    """The gate has a column for every prompt, the attention only for those kept."""
    model = build(backbone, mode=mode, execution=execution)
    keep = KEEP[:1] if mode == "shallow" else KEEP
    for gate in torch.randn(1, *keep.shape), torch.zeros(1, *keep.shape):
        masked(model, torch.ones_like(KEEP))
        with model.prompts.gated(gate.masked_fill(~keep, float("-inf"))):
            expected = logits(model)
        with masked(model).prompts.gated(gate):
            assert_close(logits(model), expected)
    assert_close(logits(model), expected)


def test_the_gate_goes_even_when_an_error_passes_through() -> None:
    bank = build().prompts
    with pytest.raises(UsageError), bank.gated(torch.zeros(1, 3, 4)):
        bank.apply_mask([])
    assert bank.log_gate is None


def test_the_mask_survives_a_state_dict_and_another_precision() -> None:
    model, other = masked(build()), build()
    expected = logits(model)
    logits(other)  # so that it has something to forget
    other.load_state_dict(model.state_dict())
    assert other.prompts.counts() == [3, 0, 1]
    assert torch.equal(logits(other), expected)
    model.to(torch.float64)
    assert model.prompts.keep.dtype == torch.bool
    assert model.prompts.counts() == [3, 0, 1]
    assert_close(logits(model, images(model).double()), expected)


@pytest.mark.parametrize("backbone", ["class_token", "swin"])
def test_a_copy_has_the_same_mask_and_shares_nothing(
    backbone: str, mode: str, execution: str
) -> None:
    model = build(backbone, mode=mode, execution=execution)
    whole, before, other = logits(model), logits(masked(model)), copy.deepcopy(model)
    assert other.prompts.counts() == [3, 0, 1][: len(KEEP if mode == "deep" else KEEP[:1])]
    assert torch.equal(logits(other), before)
    assert torch.equal(logits(masked(other, torch.ones_like(KEEP))), whole)
    assert not torch.equal(before, whole)
    other.blocks[0].norm1.bias.data += 1
    changed = logits(other)
    other.execution = "tokens" if execution == "prefix" else "prefix"
    assert_close(logits(other), changed)  # prompts pass through the copy's norm, too
    for values in other.prompts.parameters():
        values.data.zero_()
    assert not torch.equal(logits(other), before)
    assert torch.equal(logits(model), before)


def test_a_mask_of_another_shape_is_refused() -> None:
    bank = build().prompts
    for shape in ((2, 4), (3, 5)):
        with pytest.raises(UsageError, match="3 layers of 4 prompts"):
            bank.apply_mask(list(torch.ones(shape, dtype=torch.bool)))
    assert bank.counts() == [4, 4, 4]


def test_a_mask_is_copied_and_counts_when_it_is_changed_in_place() -> None:
    keep, bank = KEEP.clone(), build().prompts
    bank.apply_mask(list(keep))
    keep.fill_(True)
    assert bank.counts() == [3, 0, 1]
    bank.keep[1, :2] = True  # as weight averaging and buffer broadcasts do
    assert bank.counts() == [3, 2, 1]


@pytest.mark.parametrize("shared", [False, True])
def test_prompt_dropout_is_drawn_for_each_image_or_shared_by_a_batch(shared: bool) -> None:
    bank = PromptBank(1, 8, [64], 1.0, dropout=0.25).train()
    bank.shared_dropout = shared
    prompts = bank(0, 64)
    assert prompts.shape == ((8, 64) if shared else (64, 8, 64))
    dropped = prompts == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.06 if shared else 0.03)
    torch.testing.assert_close(
        prompts[~dropped], (bank.values[0] / 0.75).expand_as(prompts)[~dropped]
    )
    assert not torch.equal(bank(0, 64), prompts)
    assert shared or not torch.equal(dropped[0], dropped[1])
    assert torch.equal(bank.eval()(0, 64), bank.values[0])


def _several_widths() -> PromptBank:
    return PromptBank(4, 3, [8, 8, 16, 8], 0.5)


def test_layers_of_several_widths_have_a_parameter_for_each_run_of_one_width() -> None:
    bank = _several_widths()
    shapes = {name: tuple(values.shape) for name, values in bank.named_parameters()}
    assert shapes == {"values_0": (2, 3, 8), "values_1": (1, 3, 16), "values_2": (1, 3, 8)}
    assert set(bank.state_dict()) == {*shapes, "keep", "scores"}
    assert [layers for layers, _ in bank.runs()] == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert bank.stages == [0, 0, 1, 2]
    assert all(values.abs().max() > 0.3 for values in bank.parameters())
    bank.to("meta", torch.float16)
    assert (bank.device, bank.dtype) == (torch.device("meta"), torch.float16)


def test_layers_of_one_width_have_one_parameter() -> None:
    bank = PromptBank(2, 3, [8, 8, 16], 0.5)
    assert list(bank.state_dict()) == ["values", "keep", "scores"]
    assert bank.scores.isnan().all()
    assert bank.stages == [0, 0]
    assert torch.equal(bank.stack(), bank.values)


def test_each_layer_finds_its_own_values() -> None:
    bank = _several_widths()
    first, second, third = (values.detach() for values in bank.parameters())
    expected = [first[0], first[1], second[0], third[0]]
    keep = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]], dtype=torch.bool)
    bank.apply_mask(list(keep))
    for layer, values in enumerate(expected):
        assert torch.equal(bank.layer_values(layer), values)
        assert torch.equal(bank(layer, 2), values[keep[layer]])
    with pytest.raises(IndexError):
        bank.layer_values(4)


def test_padding_changes_neither_norms_nor_products() -> None:
    bank = _several_widths()
    stacked, halves = bank.stack(), bank.stack([v / 2 for v in bank.parameters()])
    assert stacked.shape == (4, 3, 16)
    for layer in range(4):
        values = bank.layer_values(layer)
        torch.testing.assert_close(stacked[layer].norm(dim=1), values.norm(dim=1))
        products = (stacked[layer] * halves[layer]).sum(1)
        torch.testing.assert_close(products, values.square().sum(1) / 2)


def test_a_snapshot_is_restored_over_all_widths() -> None:
    bank = _several_widths()
    snapshot, before = bank.snapshot(), bank.stack().detach().clone()
    for values in bank.parameters():
        values.data.zero_()
    assert (bank.stack() == 0).all()
    bank.restore(snapshot)
    assert torch.equal(bank.stack(), before)
    assert all(values.requires_grad for values in bank.parameters())


def test_a_model_made_in_inference_mode_predicts() -> None:
    with torch.inference_mode():
        model = build().double()
        assert model(images(model).double()).shape == (3, 5)

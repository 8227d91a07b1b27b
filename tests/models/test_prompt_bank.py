"""The mask of kept prompts: what it removes, and what it survives."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcvpt.errors import UsageError
from pcvpt.models import PromptBank, PromptedVisionTransformer

KEEP = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)


def _masked(model: PromptedVisionTransformer) -> PromptedVisionTransformer:
    keep = KEEP if model.mode == "deep" else KEEP[:1]
    model.prompts.apply_mask(list(keep))
    return model


@torch.no_grad()
def _logits(model: PromptedVisionTransformer, images: Tensor) -> Tensor:
    return model(images)


def _key_lengths(
    model: PromptedVisionTransformer, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], list[int]]:
    """Return the number of queries and keys that each block's attention really computes."""
    original = nn.functional.scaled_dot_product_attention
    queries, keys = [], []

    def record(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        queries.append(q.shape[2])
        keys.append(k.shape[2])
        return original(q, k, v, **options)

    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "scaled_dot_product_attention", record)
        _logits(model, images)
    return queries, keys


@pytest.mark.parametrize(
    ("mode", "execution", "queries", "keys"),
    [
        ("deep", "prefix", [5, 5, 1], [8, 5, 6]),
        ("deep", "tokens", [8, 5, 6], [8, 5, 6]),
        ("shallow", "prefix", [8, 8, 1], [8, 8, 8]),
        ("shallow", "tokens", [8, 8, 8], [8, 8, 8]),
    ],
)
def test_masked_prompts_leave_the_sequence(
    build: Any,
    images: Any,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    execution: str,
    queries: list[int],
    keys: list[int],
) -> None:
    # One class token and four patches; with normalised keys, for which the last block has no way
    # around computing them.
    model = build("qk_norm", mode=mode, execution=execution)
    assert _key_lengths(model, images(model), monkeypatch)[1] == [9, 9, 9]
    assert _key_lengths(_masked(model), images(model), monkeypatch) == (queries, keys)


def test_outputs_do_not_depend_on_masked_values(
    build: Any, images: Any, mode: str, execution: str
) -> None:
    model = _masked(build(mode=mode, execution=execution))
    before = _logits(model, images(model))
    model.prompts.values.data[~model.prompts.keep] = float("nan")
    assert torch.equal(_logits(model, images(model)), before)


def test_masked_prompts_get_a_gradient_of_zero(
    build: Any, images: Any, mode: str, execution: str
) -> None:
    model = _masked(build(mode=mode, execution=execution, prompt_dropout=0.1)).train()
    model(images(model)).square().sum().backward()
    gradient, keep = model.prompts.values.grad, model.prompts.keep
    assert torch.equal(gradient[~keep], torch.zeros_like(gradient[~keep]))
    assert (gradient[keep].abs().amax(1) > 0).all()


def test_a_mask_equals_a_gate_of_minus_infinity(
    build: Any, images: Any, backbone: str, mode: str, execution: str
) -> None:
    model = build(backbone, mode=mode, execution=execution)
    keep = KEEP if mode == "deep" else KEEP[:1]
    gate = torch.zeros(1, *keep.shape).masked_fill(~keep, float("-inf"))
    with model.prompts.gated(gate):
        expected = _logits(model, images(model))
    logits = _logits(_masked(model), images(model))
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_gate_skips_the_prompts_that_are_masked(
    build: Any, images: Any, mode: str, execution: str
) -> None:
    """The gate has a column for every prompt, the attention only for those kept."""
    model = build(mode=mode, execution=execution)
    keep = KEEP if mode == "deep" else KEEP[:1]
    gate = torch.randn(1, *keep.shape)
    with model.prompts.gated(gate.masked_fill(~keep, float("-inf"))):
        expected = _logits(model, images(model))
    with _masked(model).prompts.gated(gate):
        logits = _logits(model, images(model))
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_gate_goes_even_when_an_error_passes_through(build: Any) -> None:
    bank = build().prompts
    with pytest.raises(UsageError), bank.gated(torch.zeros(1, 3, 4)):
        bank.apply_mask([])
    assert bank.log_gate(0) is None


def test_prompts_come_back_when_the_mask_is_lifted(build: Any, images: Any, mode: str) -> None:
    model = build(mode=mode)
    before = _logits(model, images(model))
    assert not torch.equal(_logits(_masked(model), images(model)), before)
    model.prompts.apply_mask(list(torch.ones_like(model.prompts.keep)))
    assert torch.equal(_logits(model, images(model)), before)


def test_the_mask_survives_a_state_dict(build: Any, images: Any) -> None:
    model = _masked(build())
    other = build()
    _logits(other, images(other))  # so that it has something to forget
    other.load_state_dict(model.state_dict())
    assert other.prompts.counts() == [3, 0, 1]
    assert torch.equal(_logits(other, images(model)), _logits(model, images(model)))


def test_the_mask_survives_a_copy_and_the_copy_is_on_its_own(build: Any, images: Any) -> None:
    model = _masked(build())
    before = _logits(model, images(model))
    other = copy.deepcopy(model)
    assert other.prompts.counts() == [3, 0, 1]
    assert torch.equal(_logits(other, images(model)), before)
    other.prompts.apply_mask(list(torch.ones_like(KEEP)))
    other.prompts.values.data.zero_()
    other.blocks[0].norm1.weight.data.zero_()
    assert not torch.equal(_logits(other, images(model)), before)
    assert torch.equal(_logits(model, images(model)), before)


def test_prompts_of_a_copy_pass_through_the_copys_own_norm(build: Any, images: Any) -> None:
    model = build()
    other = copy.deepcopy(model)
    other.blocks[0].norm1.bias.data += 1
    prefix = _logits(other, images(model))
    other.execution = "tokens"
    torch.testing.assert_close(_logits(other, images(model)), prefix, rtol=1e-4, atol=1e-4)


def test_the_mask_survives_another_precision(build: Any, images: Any) -> None:
    model = _masked(build())
    expected = _logits(model, images(model))
    model.to(torch.float64)
    assert model.prompts.keep.dtype == torch.bool
    assert model.prompts.counts() == [3, 0, 1]
    logits = _logits(model, images(model).double())
    torch.testing.assert_close(logits.float(), expected, rtol=1e-4, atol=1e-4)


def test_training_goes_on_after_a_mask_set_in_inference_mode(
    build: Any, images: Any, mode: str, execution: str
) -> None:
    model = build(mode=mode, execution=execution)
    with torch.inference_mode():
        _masked(model)
        model(images(model))
    model.train()(images(model)).square().sum().backward()
    gradient, keep = model.prompts.values.grad, model.prompts.keep
    assert (gradient[keep].abs().amax(1) > 0).all()
    assert (gradient[~keep] == 0).all()


def test_a_mask_of_another_shape_is_refused(build: Any) -> None:
    bank = build().prompts
    with pytest.raises(UsageError, match="3 layers of 4 prompts"):
        bank.apply_mask([torch.ones(4, dtype=torch.bool)] * 2)
    with pytest.raises(UsageError, match="3 layers of 4 prompts"):
        bank.apply_mask([torch.ones(5, dtype=torch.bool)] * 3)
    assert bank.counts() == [4, 4, 4]


def test_a_mask_is_copied_not_shared(build: Any) -> None:
    keep = KEEP.clone()
    bank = build().prompts
    bank.apply_mask(list(keep))
    keep.fill_(True)
    assert bank.counts() == [3, 0, 1]


def test_each_image_has_its_own_prompt_dropout() -> None:
    bank = PromptBank(1, 8, 16, 1.0, dropout=0.25).train()
    prompts = bank(0, 64)
    assert prompts.shape == (64, 8, 16)
    dropped = prompts == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert not torch.equal(dropped[0], dropped[1])
    scaled = (bank.values[0] / 0.75).expand(64, -1, -1)
    torch.testing.assert_close(prompts[~dropped], scaled[~dropped])
    assert torch.equal(bank.eval()(0, 64), bank.values[0])


def test_scores_are_unknown_at_first_and_saved() -> None:
    bank = PromptBank(2, 3, 4, 0.1)
    assert bank.scores.isnan().all()
    assert set(bank.state_dict()) == {"values", "keep", "scores"}


def test_the_representation_tells_how_many_are_kept(build: Any) -> None:
    assert "layers=3, prompts=4, width=48, kept=4" in repr(_masked(build()).prompts)


def test_a_mask_copied_into_the_buffer_counts_at_once() -> None:
    bank = PromptBank(2, 4, 8, 0.1)
    assert bank.counts() == [4, 4]
    bank.keep[1, :3] = False  # as weight averaging and buffer broadcasts do
    assert bank.counts() == [4, 1]


def test_a_deep_copy_has_a_mask_of_its_own() -> None:
    bank = PromptBank(2, 4, 8, 0.1)
    bank.apply_mask([torch.tensor([True, False, False, False])] * 2)
    assert bank.counts() == [1, 1]
    other = copy.deepcopy(bank)
    other.apply_mask([torch.ones(4, dtype=torch.bool)] * 2)
    assert other.counts() == [4, 4]
    assert bank.counts() == [1, 1]


def _several_widths(**options: Any) -> PromptBank:
    return PromptBank(4, 3, [8, 8, 16, 8], 0.5, **options)


def test_layers_of_several_widths_have_a_parameter_for_each_run_of_one_width() -> None:
    bank = _several_widths()
    shapes = {name: tuple(values.shape) for name, values in bank.named_parameters()}
    assert shapes == {"values_0": (2, 3, 8), "values_1": (1, 3, 16), "values_2": (1, 3, 8)}
    assert set(bank.state_dict()) == {*shapes, "keep", "scores"}
    assert [layers for layers, _ in bank.runs()] == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert bank.stages == [0, 0, 1, 2]
    assert all(values.abs().max() > 0.3 for values in bank.parameters())
    assert "layers=4, prompts=3, width=8, 16, kept=12" in repr(bank)


def test_layers_of_one_width_have_one_parameter_however_the_width_is_given() -> None:
    for width in (8, [8, 8]):
        bank = PromptBank(2, 3, width, 0.5)
        assert [name for name, _ in bank.named_parameters()] == ["values"]
        assert bank.stages == [0, 0]
        assert torch.equal(bank.stack(), bank.values)


def test_a_width_is_needed_for_each_layer() -> None:
    with pytest.raises(ValueError, match="2 widths for 3 layers"):
        PromptBank(3, 1, [8, 8], 0.5)


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


def test_a_bank_says_where_it_is_and_in_what_precision() -> None:
    bank = _several_widths().to("meta", torch.float16)
    assert (bank.device, bank.dtype) == (torch.device("meta"), torch.float16)


def test_a_batch_may_share_its_prompt_dropout() -> None:
    bank = PromptBank(1, 8, 64, 1.0, dropout=0.25, shared_dropout=True).train()
    prompts = bank(0, 5)
    assert prompts.shape == (8, 64)
    dropped = prompts == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.06)
    torch.testing.assert_close(prompts[~dropped], (bank.values[0] / 0.75)[~dropped])
    assert not torch.equal(bank(0, 5), prompts)


def test_a_model_made_in_inference_mode_predicts(build: Any, images: Any) -> None:
    with torch.inference_mode():
        model = build().double()
        assert model(images(model).double()).shape == (3, 5)

"""What merging leaves as it is, what it does not depend on, and what it refuses."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from miniature.backbones import assert_close, build, images, logits, masked
from pcvpt.condensation import merge_prompts
from pcvpt.errors import UsageError
from pcvpt.models.prompt_bank import MergedLayer

every_form = pytest.mark.parametrize(
    ("mode", "form"),
    [("deep", "key_value"), ("deep", "token"), ("shallow", "token"), ("prefix", "key_value")],
)


def _flat(merged: list[MergedLayer]) -> list[Tensor]:
    return [torch.as_tensor(part) for layer in merged for part in layer]


def _same(first: list[MergedLayer], second: list[MergedLayer]) -> bool:
    pairs = zip(_flat(first), _flat(second), strict=True)
    return all(one.shape == other.shape and torch.equal(one, other) for one, other in pairs)


def _assert_close(first: list[MergedLayer], second: list[MergedLayer], tolerance: float) -> None:
    for one, other in zip(_flat(first), _flat(second), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=1e-3 * tolerance)


def _trace(model: nn.Module) -> dict[str, Any]:
    """Return copies of all that merging must not change."""
    parameters = list(model.named_parameters())
    parts = list(model.named_modules())
    return {
        "state": {name: value.nan_to_num(7).tolist() for name, value in model.state_dict().items()},
        "gradients": {n: None if p.grad is None else p.grad.tolist() for n, p in parameters},
        "trained": {n: p.requires_grad for n, p in parameters},
        "modes": {n: m.training for n, m in parts},
        "hooks": [n for n, m in parts if m._forward_hooks or m._forward_pre_hooks],
        "checkpointing": {n: getattr(m, "grad_checkpointing", None) for n, m in parts},
        "random": torch.get_rng_state().tolist(),
        "gradients are recorded": torch.is_grad_enabled(),
    }


def _worked_on(backbone: str, mode: str) -> Any:
    """Return a masked model in the middle of training."""
    model = masked(build(backbone, mode=mode, prompt_dropout=0.2, drop_rate=0.2)).train()
    model.blocks[1].train()  # no mode that one call of train() would restore
    model.set_grad_checkpointing(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    return model


@every_form
@pytest.mark.parametrize("backbone", ["class_token", "eva02_inner_norm", "swin"])
def test_merging_leaves_no_trace(backbone: str, mode: str, form: Any) -> None:
    model = _worked_on(backbone, mode)
    before = _trace(model)
    loader = DataLoader(TensorDataset(images(model, 6)), batch_size=4, shuffle=True)
    merged = merge_prompts(model, loader, 0.25, form=form)
    assert _trace(model) == before
    assert not any(part.requires_grad for part in _flat(merged))
    assert model.execution == "prefix"
    kept = model.prompts.keep
    for layer, part in enumerate(merged):  # masked prompts became nothing
        assert (part.assignment[:, ~kept[layer]] == -1).all()
        assert len(part.values) <= kept[layer].sum()


def test_merging_leaves_no_trace_when_the_data_fail() -> None:
    model = _worked_on("class_token", "deep")
    before = _trace(model)

    def failing() -> Iterator[tuple[Tensor]]:
        torch.rand(1)
        yield (images(model),)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        merge_prompts(model, failing())
    assert _trace(model) == before


@every_form
def test_merges_depend_on_images_and_seed_alone(mode: str, form: Any) -> None:
    """Not on the random state, mode, dropout, labels, autocast, gradients or inference mode."""
    model = build(mode=mode, prompt_dropout=0.5, drop_rate=0.5)
    batch = images(model, 6)
    expected = merge_prompts(model, [(batch,)], 0.5, form=form)
    torch.manual_seed(123)
    assert _same(merge_prompts(model.train(), [(batch,)], 0.5, form=form), expected)
    wrong = (batch, torch.full((6,), -7), "no label")
    assert _same(merge_prompts(model, [wrong], 0.5, form=form), expected)  # type: ignore[list-item]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert _same(merge_prompts(model, [(batch,)], 0.5, form=form), expected)
    other = copy.deepcopy(model)
    with torch.inference_mode():
        found = merge_prompts(model, [(batch.clone(),)], 0.5, form=form)
        assert _same(found, expected)
        other.prompts.apply_merge(found)
    other.train()(batch).square().sum().backward()  # the result is good for training
    assert other.prompts.values.grad.abs().max() > 0
    for trained in (False, True):  # no parameter, or those of the backbone, too
        model.requires_grad_(trained)
        found = merge_prompts(model, [(batch,)], 0.5, form=form)
        assert not any(part.requires_grad for part in _flat(found))
        _assert_close(found, expected, 1e-4)  # attention is computed in another form
    assert not _same(merge_prompts(model, [(batch,)], 0.5, form=form, seed=1), expected)
    assert not _same(merge_prompts(model, [(batch.flip(3),)], 0.5, form=form), expected)


@every_form
def test_the_division_into_batches_does_not_matter(mode: str, form: Any) -> None:
    model = build(mode=mode).double()
    batch = images(model, 6).double()
    whole = merge_prompts(model, [(batch,)], 0.5, form=form)
    divided = merge_prompts(model, [(part,) for part in batch.split([1, 3, 2])], 0.5, form=form)
    _assert_close(divided, whole, 1e-6)


@every_form
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("bfloat16", 0.05)])
def test_models_of_other_precision_merge_equal_prompts(
    mode: str, form: Any, dtype: str, tolerance: float
) -> None:
    model = build(mode=mode)
    for layer in range(len(model.prompts.keep)):
        model.prompts.layer_values(layer).data[3] = model.prompts.layer_values(layer).data[1]
    model.to(getattr(torch, dtype))
    batch = images(model)  # in float32
    precise = batch.to(getattr(torch, dtype))
    before = logits(model, precise)
    count = 3 * len(model.prompts.keep)
    model.prompts.apply_merge(merge_prompts(model, [(batch,)], None, count=count, form=form))
    assert all(p.dtype == getattr(torch, dtype) for p in model.prompts.parameters())
    assert set(model.prompts.counts()) == {3}
    assert_close(logits(model, precise).double(), before.double(), tolerance=tolerance)


def test_the_form_is_the_best_that_a_model_takes() -> None:
    for form, options in (
        ("key_value", {}),
        ("key_value", {"mode": "prefix"}),
        ("token", {"mode": "shallow"}),
        ("token", {"execution": "tokens"}),
        ("token", {"backbone": "swin_pooled"}),
    ):
        model = build(**options)
        model.prompts.apply_merge(merge_prompts(model, [(images(model),)], 0.5))
        assert model.prompts.form == form
        assert sum(model.prompts.counts()) == model.prompts.keep.numel() // 2


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"mode": "linear"}, {}, "no prompts to merge"),
        ({}, {"keep": 0}, "keep=0; give the fraction"),
        ({}, {"keep": 1.5}, "keep=1.5; give the fraction"),
        ({}, {"keep": [0.5, 1.5]}, "keep=1.5; give the fraction"),
        ({}, {"keep": [0.5], "count": 3}, "give exactly one of them"),
        ({}, {"keep": None}, "give exactly one of them"),
        ({}, {"keep": None, "count": 0}, "count=0; keep at least one"),
        ({}, {"keep": None, "count": 13}, "count=13, but there are only 12"),
        ({}, {"keep": None, "count": 5, "scope": "layer"}, "count=5, but there are only 4"),
        ({}, {"scope": "block"}, "scope 'block'; choose one of"),
        ({}, {"form": "best"}, "form 'best'"),
        ({"mode": "shallow"}, {"form": "key_value"}, "'shallow' has no prompts that could be keys"),
        ({"execution": "tokens"}, {"form": "key_value"}, "need execution='prefix'"),
        ({"backbone": "swin_pooled"}, {"form": "key_value"}, "pool_prompts=True"),
        ({"mode": "prefix"}, {"form": "token"}, "form 'token', but the prompts are of form"),
    ],
)
def test_what_can_not_be_merged_is_refused_before_an_image_is_read(
    options: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    def unread() -> Iterator[tuple[Tensor]]:
        raise AssertionError("an image was read")
        yield

    model = build(**options)
    with pytest.raises(UsageError, match=message) as caught:
        merge_prompts(model, unread(), **arguments)
    assert "\n" not in str(caught.value)


def test_frozen_prompts_and_batches_that_hold_no_images_are_refused() -> None:
    model = build()
    batch = images(model)
    for batches, message in (
        ([], "no images to merge the prompts by"),
        ([(batch.to(torch.uint8),)], "uint8; normalise them first"),
        ([(batch * torch.nan,)], "not finite; did the loss diverge"),
    ):
        with pytest.raises(UsageError, match=message):
            merge_prompts(model, batches)
    with pytest.raises(UsageError, match="prompts are frozen"):
        merge_prompts(model.freeze_prompts(), [(batch,)])


@pytest.mark.parametrize(
    "other",
    [
        {"num_prompts": 5},
        {"depth": 2},
        {"embed_dim": 36},
        {"mode": "shallow"},
        {"backbone": "swin"},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["token", None])
def test_a_merge_of_another_model_is_refused(other: dict[str, Any], form: Any) -> None:
    model, strange = build(), build(**other)
    before = _trace(model)
    merged = merge_prompts(strange, [(images(strange),)], 0.5, form=form)
    with pytest.raises(UsageError, match="3 layers of 4 prompts"):
        model.prompts.apply_merge(merged)
    assert _trace(model) == before


@pytest.mark.parametrize(
    ("options", "form", "message"),
    [
        ({"execution": "tokens"}, None, "need execution='prefix'"),
        ({"backbone": "swin", "execution": "tokens"}, None, "need execution='prefix'"),
        ({"backbone": "swin_pooled"}, None, "pool_prompts=True"),
        ({"mode": "prefix"}, "token", "the merge is of tokens"),
    ],
)
def test_a_merge_in_a_form_that_the_model_does_not_take_is_refused(
    options: dict[str, Any], form: Any, message: str
) -> None:
    model = build(**options)
    merging = build(options.get("backbone", "class_token").removesuffix("_pooled"))
    merged = merge_prompts(merging, [(images(merging),)], 0.5, form=form)
    before = _trace(model)
    with pytest.raises(UsageError, match=message):
        model.prompts.apply_merge(merged)
    assert _trace(model) == before

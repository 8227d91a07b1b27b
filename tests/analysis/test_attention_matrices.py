from typing import Any

import pytest
import torch

from pcvpt.analysis.attention_matrices import BlockAttention, watch_attention
from pcvpt.errors import UsageError


def test_the_matrix_is_of_all_tokens_and_prompts_and_its_rows_sum_to_one(
    build: Any, images: Any, mask_some: Any, seen_in: Any, family: str, mode: str
) -> None:
    model = build(family, mode=mode)
    keep, x = mask_some(model), images(model)
    bare = [one.weights.shape[-1] - 1 for one in seen_in(build(family, num_prompts=1), x)]
    logits = watch_attention(model, x, lambda _: None)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(x), rtol=1e-4, atol=1e-4)
    seen = seen_in(model, x)
    assert [one.block for one in seen] == list(range(len(model.blocks)))
    for one, alone in zip(seen, bare, strict=True):
        layer = one.block if mode == "deep" else 0
        assert (one.layer, one.prompts) == (layer, int(keep[layer].sum()))
        assert one.weights.shape[-2:] == (alone + one.prompts,) * 2
        assert one.weights.dtype == torch.float64
        torch.testing.assert_close(
            one.weights.sum(-1), torch.ones_like(one.weights[..., 0]), rtol=0, atol=1e-5
        )


def test_swin_has_a_matrix_for_each_window(build: Any, images: Any, seen_in: Any) -> None:
    model = build("swin")
    shapes = [tuple(one.weights.shape) for one in seen_in(model, images(model))]
    assert shapes == [(3, 4, 2, 20, 20)] * 2 + [(3, 1, 4, 20, 20)] * 2


def test_the_matrix_is_what_the_block_mixes_values_by(
    build: Any, images: Any, seen_in: Any
) -> None:
    model = build(execution="tokens")
    attention, held = model.blocks[1].attn, {}
    attention.proj.register_forward_hook(lambda _, args, out: held.update(mixed=args[0]))
    attention.register_forward_pre_hook(lambda _, args: held.update(x=args[0]))
    seen = seen_in(model, images(model))[1].weights[:, 0]
    x = held["x"]
    value = attention.qkv(x)[..., 96:].unflatten(2, (3, 16)).transpose(1, 2).double()
    mixed = (seen @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixed, held["mixed"].double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was_even_by_an_error(
    build: Any, images: Any, mask_some: Any, execution: str, training: bool
) -> None:
    model = build(execution=execution).train(training)
    keep = mask_some(model)
    modes = {name: module.training for name, module in model.named_modules()}

    def fail(_: BlockAttention) -> None:
        model.prompts.apply_mask(list(torch.ones_like(keep)))
        raise KeyError

    with pytest.raises(KeyError):
        watch_attention(model, images(model), fail)
    assert model.execution == execution
    assert torch.equal(model.prompts.keep, keep)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_frozen_prompts_and_linear_probes_are_refused(build: Any, images: Any) -> None:
    probe, frozen = build(num_prompts=0, mode="linear"), build().freeze_prompts()
    for model, fault in (probe, "linear probe"), (frozen, "frozen"):
        with pytest.raises(UsageError, match=fault):
            watch_attention(model, images(model), lambda _: None)

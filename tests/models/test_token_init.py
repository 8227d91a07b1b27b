"""Prompts that start as tokens of images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from miniature.backbones import build, images
from pcvpt.errors import UsageError
from pcvpt.models.token_init import init_from_tokens


def test_prompts_are_tokens_that_enter_their_block(backbone: str, mode: str) -> None:
    model = build(backbone, mode=mode)
    batch = images(model)
    init_from_tokens(model, batch, seed=3)
    bare = build(backbone, mode="linear")
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("prompts.")}
    bare.load_state_dict(weights, strict=False)
    entering: list[torch.Tensor] = []
    for block in bare.blocks:
        block.register_forward_pre_hook(lambda _, args: entering.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        bare.eval()(batch)
    for layer, tokens in enumerate(entering[: len(model.prompts.keep)]):
        prompts = model.prompts.layer_values(layer).detach()
        assert (
            torch.cdist(prompts, tokens, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max()
            < 1e-3 * tokens.norm(dim=1).mean()
        )
        assert len(prompts.unique(dim=0)) == len(prompts)


def test_in_mode_prefix_they_are_the_keys_and_values_of_these_tokens() -> None:
    prefix, deep = (build("class_token", mode=mode) for mode in ("prefix", "deep"))
    deep.load_state_dict(
        {k: v for k, v in prefix.state_dict().items() if not k.startswith("prompts")}, strict=False
    )
    for model in (prefix, deep):
        init_from_tokens(model, images(model), seed=3)
    torch.testing.assert_close(prefix.prompts.values, deep.use_keys_values().prompts.values)


def test_the_seed_decides_and_nothing_else_changes() -> None:
    model = build().train()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    found = []
    for seed in (0, 0, 1):
        init_from_tokens(model, images(model), seed)
        found.append(model.prompts.values.detach().clone())
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert model.training
    assert bool(model.prompts.keep.all())


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"mode": "linear"}, lambda model: model, "mode 'linear', which has no prompts"),
        ({"num_prompts": 2000}, lambda model: model, "fewer than the 2000 prompts of a layer"),
        # The first stage has enough, and must not change before the last is found to have too few.
        (
            {"backbone": "swin", "num_prompts": 64},
            lambda model: model,
            "3 images have 48 tokens, fewer than the 64 prompts",
        ),
        ({}, lambda model: model.freeze_prompts(), "frozen"),
    ],
)
def test_what_can_not_start_from_tokens_is_refused(
    options: dict[str, Any], change: Callable[[Any], Any], message: str
) -> None:
    model = change(build(**options))
    before = model.prompts.snapshot()
    with pytest.raises(UsageError, match=message):
        init_from_tokens(model, images(model))
    assert all(map(torch.equal, model.prompts.snapshot(), before))
    assert bool(model.prompts.keep.all())


def test_autocast_does_not_reach_the_prompts() -> None:
    model = build()
    init_from_tokens(model, images(model), seed=3)
    expected = model.prompts.snapshot()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        init_from_tokens(model, images(model), seed=3)
    assert all(map(torch.equal, model.prompts.snapshot(), expected))


def test_images_that_are_not_normalised_are_refused() -> None:
    model = build()
    with pytest.raises(UsageError, match="normalise them first"):
        init_from_tokens(model, images(model).byte())

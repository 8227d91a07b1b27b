from typing import Any

import pytest
import torch

from pcvpt.analysis.attention import prompt_maps, rollout, strongest
from pcvpt.errors import UsageError


def test_maps_are_rows_and_columns_of_the_chosen_prompts(
    build: Any, images: Any, mask_some: Any, seen_in: Any, plain_family: str
) -> None:
    model = build(plain_family)
    keep, x = mask_some(model), images(model)
    chosen = [(2, 3), (0, 2)]
    maps = prompt_maps(model, x, chosen)
    assert maps.from_prompts.shape == (3, 2, *model.patch_embed.grid_size)
    seen, first = seen_in(model, x), model.num_prefix_tokens
    for i, (layer, prompt) in enumerate(chosen):
        weights = seen[layer].weights[:, 0].mean(1)
        last = weights.shape[1] - seen[layer].prompts
        place = last + int(keep[layer, :prompt].sum())
        torch.testing.assert_close(
            maps.from_prompts[:, i].flatten(1), weights[:, place, first:last]
        )
        torch.testing.assert_close(maps.to_prompts[:, i].flatten(1), weights[:, first:last, place])


def test_maps_of_shallow_are_means_over_blocks(build: Any, images: Any, seen_in: Any) -> None:
    model = build(mode="shallow")
    x = images(model)
    weights = torch.stack([one.weights[:, 0].mean(1) for one in seen_in(model, x)]).mean(0)
    maps = prompt_maps(model, x, [(0, 1)])
    torch.testing.assert_close(maps.from_prompts[:, 0].flatten(1), weights[:, 7 + 1, 1:7])
    torch.testing.assert_close(maps.to_prompts[:, 0].flatten(1), weights[:, 1:7, 7 + 1])


def test_the_shares_of_a_rollout_sum_to_one(
    build: Any, images: Any, mask_some: Any, plain_family: str, mode: str
) -> None:
    model = build(plain_family, mode=mode)
    keep = mask_some(model)
    found = rollout(model, images(model))
    total = found.patches.sum((1, 2)) + found.others + found.prompts.sum((1, 2))
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)
    assert torch.equal((found.prompts > 0).all(0), keep)
    without = rollout(model, images(model), prompts=False)
    assert not without.prompts.any()
    assert torch.equal(model.prompts.keep, keep)
    model.prompts.apply_mask(list(torch.zeros_like(keep)))
    assert torch.equal(rollout(model, images(model)).patches, without.patches)


@pytest.mark.parametrize(("family", "patches"), [("class_token", 6), ("no_class_token", 4)])
def test_a_rollout_of_shallow_is_the_product_of_whole_matrices(
    build: Any, images: Any, seen_in: Any, family: str, patches: int
) -> None:
    model = build(family, mode="shallow")
    x, first = images(model), model.num_prefix_tokens
    identity = torch.eye(first + patches + 4, dtype=torch.float64)
    product = identity
    for one in seen_in(model, x):
        product = (one.weights[:, 0].mean(1) + identity) / 2 @ product
    # The class token is read, or else the mean over patches.
    expected = product[:, 0] if first else product[:, :patches].mean(1)
    found = rollout(model, x)
    torch.testing.assert_close(found.others, expected[:, :first].sum(1))
    torch.testing.assert_close(found.patches.flatten(1), expected[:, first : first + patches])
    torch.testing.assert_close(found.prompts[:, 0], expected[:, first + patches :])


def test_a_rollout_of_deep_is_a_walk_that_ends_at_prompts(
    build: Any, images: Any, seen_in: Any
) -> None:
    """The same as one product of matrices over the tokens and the prompts of all blocks."""
    model = build()
    x = images(model)
    size = 7 + 3 * 4
    product = torch.eye(size, dtype=torch.float64)
    for one in seen_in(model, x):
        step = torch.eye(size, dtype=torch.float64).repeat(3, 1, 1)  # a prompt stays where it is
        places = [*range(7), *range(7 + 4 * one.block, 11 + 4 * one.block)]
        rows = one.weights[:, 0].mean(1)[:, :7]
        step[:, :7] = 0.5 * step[:, :7]
        step[:, :7, places] += 0.5 * rows
        product = step @ product
    found = rollout(model, x)
    torch.testing.assert_close(found.others, product[:, 0, 0])
    torch.testing.assert_close(found.patches.flatten(1), product[:, 0, 1:7])
    torch.testing.assert_close(found.prompts.flatten(1), product[:, 0, 7:])


def test_the_strongest_kept_prompts_come_first() -> None:
    strength = torch.tensor([[1.0, 9.0, 3.0], [float("nan"), 2.0, 3.0]])
    keep = torch.tensor([[True, False, True], [True, True, True]])
    assert strongest(strength, keep, 3) == [(0, 2), (1, 2), (1, 1)]
    assert strongest(strength, keep, 99) == [(0, 2), (1, 2), (1, 1), (0, 0), (1, 0)]


def test_swin_and_masked_prompts_have_no_maps(build: Any, images: Any, mask_some: Any) -> None:
    swin, model = build("swin"), build()
    mask_some(model)
    for refused in (rollout, prompt_maps):
        with pytest.raises(UsageError, match="Swin"):
            refused(swin, images(swin), [])  # type: ignore[operator]
    with pytest.raises(UsageError, match="prompt 1 of layer 0 is masked"):
        prompt_maps(model, images(model), [(0, 1)])

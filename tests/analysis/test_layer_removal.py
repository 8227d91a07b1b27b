from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.analysis.layer_removal import layer_removals
from pcvpt.errors import UsageError


def _batches(model: Any, images: Any) -> list[tuple[Tensor, Tensor]]:
    """Images, in batches of different sizes, with the labels that the model gives to most."""
    x = images(model, 40)
    with torch.no_grad():
        model.get_classifier().bias -= model(x).mean(0)  # else one class may win throughout
        labels = model(x).argmax(1)
    labels[::5] = (labels[::5] + 1) % 5
    return list(zip(x.split(16), labels.split(16), strict=True))


@pytest.mark.parametrize("family", ["class_token", "eva", "swin"])
def test_removals_are_those_of_models_masked_before(
    build: Any, images: Any, mask_some: Any, accuracy: Any, family: str
) -> None:
    model = build(family)
    keep = mask_some(model)
    batches, nothing = _batches(model, images), torch.zeros_like(keep)
    found = layer_removals(model, iter(batches))
    assert found.untouched == pytest.approx(accuracy(model, batches, keep)) == 80
    assert found.none == pytest.approx(accuracy(model, batches, nothing))
    assert (found.images, found.kept) == (40, keep.sum(1).tolist())
    for layer in range(len(keep)):
        without, only = keep.clone(), nothing.clone()
        without[layer], only[layer] = False, keep[layer]
        assert found.without[layer] == pytest.approx(accuracy(model, batches, without))
        assert found.only[layer] == pytest.approx(accuracy(model, batches, only))
    assert torch.equal(model.prompts.keep, keep)
    assert found.without[1] == found.untouched  # no prompts in block 1
    assert len({found.untouched, found.none, *found.without, *found.only}) > 2  # prompts matter


def test_shallow_linear_frozen_and_no_images_are_refused(build: Any, images: Any) -> None:
    shallow, frozen, deep = build(mode="shallow"), build().freeze_prompts(), build()
    probe = build(num_prompts=0, mode="linear")
    batches = _batches(deep, images)
    for model, fault in (
        (shallow, "VPT-Shallow"),
        (probe, "linear probe"),
        (frozen, "frozen"),
    ):
        with pytest.raises(UsageError, match=fault):
            layer_removals(model, batches)
    with pytest.raises(UsageError, match="no images"):
        layer_removals(deep, [])

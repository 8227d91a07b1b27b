"""From an RGB image to the tensor that a backbone expects.

The two ways of resizing are those of VPT (Jia et al., ECCV 2022, https://arxiv.org/abs/2203.12119,
appendix A): ``crop`` for FGVC, ``squash`` without augmentation for VTAB-1k.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torchvision.transforms import InterpolationMode, v2

Resize = Literal["crop", "squash"]
"""``crop`` keeps the aspect and cuts the rest off; ``squash`` keeps all and gives up the aspect."""

Interpolation = Literal["bilinear", "bicubic"]

_MARGIN = 256 / 224  # FGVC resizes the short side to 256 before it crops 224


@dataclass(frozen=True)
class InputSpec:
    """The images that a backbone was pretrained on and expects.

    ``image_size`` is (height, width) in pixels; ``mean`` and ``std`` are per channel (red, green,
    blue) of values scaled to [0, 1]; ``interpolation`` is the one used where none is asked for.
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"


def train_transform(spec: InputSpec, resize: Resize, augment: bool) -> v2.Compose:
    """Return a transform from a PIL image to a float tensor (3, height, width).

    With ``augment`` the crop is placed at random and half of the images are mirrored; without, it
    is ``eval_transform``.
    """
    if not augment:
        return eval_transform(spec, resize)
    steps = _resize(spec, resize)
    if resize == "crop":
        steps.append(v2.RandomCrop(spec.image_size))
    steps.append(v2.RandomHorizontalFlip(0.5))
    return v2.Compose(steps + _normalize(spec))


def eval_transform(spec: InputSpec, resize: Resize) -> v2.Compose:
    """Return the transform without randomness; a crop is taken from the centre."""
    steps = _resize(spec, resize)
    if resize == "crop":
        steps.append(v2.CenterCrop(spec.image_size))
    return v2.Compose(steps + _normalize(spec))


def _resize(spec: InputSpec, resize: Resize) -> list[v2.Transform]:
    interpolation = InterpolationMode(spec.interpolation)
    if resize == "squash":
        return [v2.Resize(spec.image_size, interpolation)]
    return [v2.Resize(round(max(spec.image_size) * _MARGIN), interpolation)]


def _normalize(spec: InputSpec) -> list[v2.Transform]:
    return [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(spec.mean), list(spec.std)),
    ]

"""From an RGB image to the tensor that a backbone expects, under a named protocol.

Published results differ by how images are resized and normalised, often without mentioning it.
The three protocols cover those in use:

========  ===============  ======================  ===================================
protocol  interpolation    short side before crop  mean and deviation
========  ===============  ======================  ===================================
``vpt``   bilinear or tf1  256/224 of the size     ImageNet's
``timm``  the backbone's   the backbone's crop     the backbone's
``raw``   bicubic          256/224 of the size     none: values in [0, 1]
========  ===============  ======================  ===================================

``vpt`` is the protocol of Jia et al., ECCV 2022, https://arxiv.org/abs/2203.12119, appendix A, and
of its release: for FGVC a crop, for VTAB-1k the whole image by TensorFlow 1's bilinear rule
(``tf1``), which is neither antialiased nor centred. ``timm`` on the ImageNet-21k ViT is the
protocol of NOAH and SSF (bicubic, 0.5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tf
from typing_extensions import Self

from pcvpt.data.image_files import to_rgb

Resize = Literal["crop", "squash"]
"""``crop`` keeps the aspect ratio and cuts the rest off; ``squash`` keeps the whole image but not
its aspect ratio."""

Interpolation = Literal["bilinear", "bicubic", "tf1"]
"""Pillow's antialiased ``bilinear`` or ``bicubic``, or ``tf1``, the bilinear of TensorFlow 1."""

Protocol = Literal["vpt", "timm", "raw"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CROP = 224 / 256  # FGVC resizes the short side to 256 before it crops 224

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class InputSpec:
    """The images that a backbone was pretrained on and expects.

    Args:
        image_size: Size (height, width) in pixels.
        mean: Mean of each channel (red, green, blue), of values scaled to [0, 1].
        std: Standard deviation of each channel.
        interpolation: Interpolation of the resizing, as torchvision calls it.
        crop: Part of the short side that a crop keeps.
        squash: Whether the resizing before a crop changes the aspect ratio (timm's ``crop_mode``).
    """

    image_size: tuple[int, int]
    mean: Triple
    std: Triple
    interpolation: str = "bicubic"
    crop: float = _CROP
    squash: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], image_size: tuple[int, int]) -> Self:
        """Return the spec that timm's ``pretrained_cfg`` gives, for images of ``image_size``."""
        return cls(
            image_size,
            mean=tuple(config.get("mean") or IMAGENET_MEAN),
            std=tuple(config.get("std") or IMAGENET_STD),
            interpolation=config.get("interpolation") or "bicubic",
            crop=config.get("crop_pct") or _CROP,
            squash=config.get("crop_mode") == "squash",
        )


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to a tensor, for one backbone and one task.

    The steps are ``resized`` (without randomness, so that its pixels can be cached), ``cut`` and
    ``normalized`` (for whole batches, on any device). Called on a PIL image, it does all steps as
    in evaluation and returns float32 (3, h, w).

    Args:
        size: Size (height, width) of the result in pixels.
        resize: ``crop`` or ``squash``.
        augment: Whether ``cut`` crops and mirrors at random in training.
        interpolation: Interpolation of the resizing.
        short_side: Length of the short side before the crop, in pixels.
        mean: Mean of each channel, of values scaled to [0, 1].
        std: Standard deviation of each channel.
        keep_aspect: Whether the resizing before a crop keeps the aspect ratio.
    """

    size: tuple[int, int]
    resize: Resize
    augment: bool
    interpolation: str
    short_side: int
    mean: Triple
    std: Triple
    keep_aspect: bool = True

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of an image after ``resized``."""
        if self.resize == "squash":
            return self.size
        if not self.keep_aspect:
            return self.short_side, self.short_side
        short, long = sorted((height, width))
        longer = int(self.short_side * long / short)  # as torchvision's Resize rounds it
        return (longer, self.short_side) if height > width else (self.short_side, longer)

    def resized(self, image: Image.Image) -> Tensor:
        """Resize ``image``; uint8 of shape (3, h, w)."""
        size = self.resized_size(image.height, image.width)
        if self.interpolation == "tf1":
            return _resized_as_tensorflow_1(image, size)
        image = tf.resize(image, list(size), InterpolationMode(self.interpolation))
        return cast(Tensor, tf.pil_to_tensor(image))

    def cut(self, image: Tensor, random: np.random.Generator | None = None) -> Tensor:
        """Crop a resized image (3, h, w) to ``size``, and return a view if possible.

        The generator places the crop and mirrors half of the images. Without one, or with
        ``augment`` false, the centre is cropped.
        """
        random = random if self.augment else None
        if self.resize == "crop":
            margins = [image.shape[1] - self.size[0], image.shape[2] - self.size[1]]
            if random is None:
                top, left = (round(pixels / 2) for pixels in margins)  # as torchvision's CenterCrop
            else:
                top, left = (int(random.integers(pixels + 1)) for pixels in margins)
            image = image[:, top : top + self.size[0], left : left + self.size[1]]
        return image if random is None or random.random() < 0.5 else image.flip(2)

    def normalized(self, images: Tensor) -> Tensor:
        """Convert uint8 (..., 3, h, w) to float32 with the mean subtracted, divided by the std.

        The result has the same bits as torchvision's ``to_dtype`` and ``normalize``, with one
        allocation.
        """
        mean, std = _columns(self.mean, images.device), _columns(self.std, images.device)
        return images.to(torch.float32, copy=True).mul_(1 / 255).sub_(mean).div_(std)

    def unnormalized(self, images: Tensor) -> Tensor:
        """Return normalised images (..., 3, h, w) as pixels in [0, 1], float32."""
        mean, std = _columns(self.mean, images.device), _columns(self.std, images.device)
        return (images.float() * std + mean).clamp(0, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return ``image`` as a model expects it in evaluation, float32 (3, h, w)."""
        return self.normalized(self.cut(self.resized(to_rgb(image))))

    def __str__(self) -> str:
        height, width = self.size
        if self.resize == "squash":
            steps = [f"resized to {height}x{width}, aspect not kept"]
        else:
            place = "at random in training, else from the centre" if self.augment else "centre"
            side = "short side" if self.keep_aspect else "both sides"
            steps = [f"{side} {self.short_side}", f"crop {height}x{width} ({place})"]
        mirrored = "mirrored at random in training" if self.augment else "no augmentation"
        numbers = [" ".join(f"{n:g}" for n in values) for values in (self.mean, self.std)]
        return ", ".join(
            [*steps, self.interpolation, mirrored, f"mean {numbers[0]}", f"deviation {numbers[1]}"]
        )


def settle(
    protocol: Protocol,
    spec: InputSpec,
    resize: Resize,
    augment: bool,
    interpolation: Interpolation | None = None,
) -> Preprocessing:
    """Return the preprocessing of a protocol (see the table above) for a backbone.

    ``interpolation`` takes the place of the protocol's. The other arguments are those of
    ``Preprocessing``.
    """
    size = spec.image_size
    own, crop, mean, std = {
        "timm": (spec.interpolation, spec.crop, spec.mean, spec.std),
        "vpt": ("tf1" if resize == "squash" else "bilinear", _CROP, IMAGENET_MEAN, IMAGENET_STD),
        "raw": ("bicubic", _CROP, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    }[protocol]
    # Rounded down, as timm does; a hundredth of a pixel keeps 224 / (224 / 256) at 256.
    short_side = int(max(size) / crop + 0.01)
    keep_aspect = not (protocol == "timm" and spec.squash)
    return Preprocessing(
        size, resize, augment, interpolation or own, short_side, mean, std, keep_aspect
    )


def eval_transform(spec: InputSpec, resize: Resize, protocol: Protocol = "timm") -> Preprocessing:
    """Return the preprocessing without augmentation; it turns a PIL image into float (3, h, w)."""
    return settle(protocol, spec, resize, augment=False)


def _resized_as_tensorflow_1(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Resize as ``tf.compat.v1.image.resize`` does by default, rounded to 256 levels.

    Pixel i of n comes from position i · m/n of m, between its two neighbours.
    """
    values = np.asarray(image.convert("RGB"), np.float32)
    for axis, length in enumerate(size):
        last = values.shape[axis] - 1
        positions = np.arange(length, dtype=np.float32) * np.float32((last + 1) / length)
        below = np.minimum(positions.astype(np.int64), last)
        above = np.minimum(below + 1, last)
        weights = (positions - below).reshape([-1 if k == axis else 1 for k in range(3)])
        first, second = values.take(below, axis), values.take(above, axis)
        values = first + (second - first) * weights
    return torch.from_numpy(np.rint(values).astype(np.uint8)).permute(2, 0, 1).contiguous()


@cache  # else each batch would wait for a copy to the device
def _columns(values: Triple, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)

"""The protocols, to the pixel; expected values are calculated from their definitions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from pcvpt.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    InputSpec,
    Protocol,
    Resize,
    eval_transform,
    settle,
)

SPEC = InputSpec((224, 224), (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
BOTH = pytest.mark.parametrize("resize", ["crop", "squash"])
# A row of four pixels resized to two. Antialiased bilinear: a triangle of half-width 2 around the
# centres 1 and 3 of the source, weights at distances .5 .5 1.5 (2.5): .75 .75 .25 over their sum.
# Hence (3·0 + 3·40 + 1·80) / 7 = 28.57 and (40 + 3·80 + 3·200) / 7 = 125.71. TensorFlow 1 reads
# positions 0 and 2, nothing between. Antialiased bicubic: Keys' kernel with a = -0.5 at half the
# distances, .8671875 .8671875 .2265625 -.0703125 over their sum: 38.75 / 1.890625 = 20.50 and
# 251.875 / 1.890625 = 133.22.
ROW = (0, 40, 80, 200)
BILINEAR = [29, 126]
TF1 = [0, 80]
BICUBIC = [20, 133]


def _image(*rows: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.array(rows, np.uint8)).convert("RGB")


def _half_white(width: int, height: int) -> Image.Image:
    return _image(*[(0,) * (width // 2) + (255,) * (width - width // 2)] * height)


@BOTH
@pytest.mark.parametrize("augment", [True, False])
def test_any_image_becomes_a_normalised_tensor(resize: Resize, augment: bool) -> None:
    steps = settle("timm", replace(SPEC, image_size=(16, 32)), resize, augment)
    resized = steps.resized(Image.new("RGB", (50, 20), (255, 0, 255)))
    assert resized.dtype == torch.uint8
    image = steps.normalized(steps.cut(resized, np.random.default_rng(0)))
    assert type(image) is torch.Tensor
    assert (image.dtype, image.shape) == (torch.float32, (3, 16, 32))
    torch.testing.assert_close(image[:, 8, 16], torch.tensor([1.0, -1.0, 1.0]))


def test_crop_cuts_the_centre_of_the_short_side_at_256() -> None:
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[16:240, 144:368] = 255  # exactly the 224 pixels in the middle
    pixels[16, 144] = 0
    steps = settle("vpt", SPEC, "crop", augment=True)
    assert steps.short_side == settle("raw", SPEC, "crop", augment=True).short_side == 256
    cut = steps.cut(steps.resized(Image.fromarray(pixels)))[0]
    assert (cut == 0).nonzero().tolist() == [[0, 0]]


def test_timm_crops_the_part_that_the_backbone_s_own_evaluation_does() -> None:
    for crop, short_side in (0.9, 248), (1.0, 224), (0.875, 256):
        assert settle("timm", replace(SPEC, crop=crop), "crop", False).short_side == short_side


@BOTH
def test_the_predicted_size_is_that_of_the_resized_image(resize: Resize) -> None:
    steps = settle("vpt", SPEC, resize, augment=False)
    for width, height in (300, 200), (200, 300), (257, 255), (10, 400):
        resized = steps.resized(Image.new("RGB", (width, height)))
        assert steps.resized_size(height, width) == tuple(resized.shape[1:])


@pytest.mark.parametrize(
    ("protocol", "values", "mean", "std"),
    [
        ("vpt", TF1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("timm", BICUBIC, SPEC.mean, SPEC.std),
        ("raw", BICUBIC, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_a_protocol_is_exact_to_the_pixel(
    protocol: Protocol, values: list[int], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    channels = zip(mean, std, strict=True)
    expected = torch.tensor([[[(v / 255 - m) / s for v in values]] * 2 for m, s in channels])
    found = eval_transform(replace(SPEC, image_size=(2, 2)), "squash", protocol)(_image(ROW, ROW))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_fgvc_is_resized_by_pillow_s_bilinear() -> None:
    steps = replace(settle("vpt", SPEC, "crop", augment=False), short_side=2)
    assert steps.resized(_image(*[ROW] * 4))[0].tolist() == [BILINEAR] * 2


def test_tensorflow_1_reads_between_neighbours_and_ends_at_the_last() -> None:
    steps = settle("vpt", replace(SPEC, image_size=(1, 5)), "squash", augment=False)
    # Positions 0, .4, .8, 1.2, 1.6 of a row that ends at 1; of the two rows only the first is read.
    assert steps.resized(_image((0, 100), (200, 200)))[1].tolist() == [[0, 40, 80, 100, 100]]


def test_timm_squashes_before_a_crop_where_the_backbone_does() -> None:
    spec = replace(SPEC, image_size=(20, 20), crop=0.5, squash=True)
    steps = settle("timm", spec, "crop", augment=False)
    assert steps.resized(_half_white(80, 40)).shape == (3, 40, 40)
    assert str(steps).startswith("both sides 40, crop 20x20")
    assert settle("vpt", spec, "crop", augment=False).keep_aspect


def test_normalisation_gives_torchvision_s_bits() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1).unsqueeze(2)
    before = images.clone()
    scaled = v2.functional.to_dtype(images, torch.float32, scale=True)
    expected = v2.functional.normalize(scaled, list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert torch.equal(settle("vpt", SPEC, "squash", False).normalized(images), expected)
    assert torch.equal(images, before)


def test_augmentation_mirrors_half_of_the_images() -> None:
    steps, random = settle("vpt", SPEC, "squash", augment=True), np.random.default_rng(0)
    image = steps.resized(_half_white(224, 224))
    mirrored = sum(int(steps.cut(image, random)[2, 0, 0]) > 128 for _ in range(60))
    assert 20 < mirrored < 40


def test_the_crop_reaches_every_place_and_no_further() -> None:
    steps = settle("vpt", replace(SPEC, image_size=(2, 2)), "crop", augment=True)
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 4).expand(3, 3, 4)
    random = np.random.default_rng(0)
    corners = {min(steps.cut(image, random)[0].flatten().tolist()) for _ in range(200)}
    assert corners == {0, 1, 2, 4, 5, 6}


def test_no_augmentation_is_the_evaluation_transform() -> None:
    steps, image = settle("vpt", SPEC, "crop", augment=False), _half_white(300, 280)
    cut = steps.cut(steps.resized(image), np.random.default_rng(0))
    assert torch.equal(steps.normalized(cut), eval_transform(SPEC, "crop", "vpt")(image))


def test_the_steps_are_described() -> None:
    crop = str(settle("vpt", SPEC, "crop", augment=True))
    assert all(part in crop for part in ("256", "224x224", "random", "bilinear", "0.485 0.456"))
    squash = str(settle("raw", SPEC, "squash", augment=False))
    assert all(part in squash for part in ("224x224, aspect", "bicubic", "no augmentation"))

"""The protocols, pinned to the pixels; expected values are worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from pcvpt.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    InputSpec,
    Preprocessing,
    Protocol,
    Resize,
    eval_transform,
    settle,
)

RANDOM = np.random.default_rng(0)
SPEC = InputSpec((224, 224), (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))


def _halves(width: int, height: int) -> Image.Image:
    """The left half black, the right half white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    return Image.fromarray(pixels)


def _train(steps: Preprocessing, image: Image.Image) -> Tensor:
    return steps.cut(steps.resized(image), RANDOM)


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("augment", [True, False])
def test_any_image_becomes_a_normalised_tensor(resize: Resize, augment: bool) -> None:
    steps = settle("timm", replace(SPEC, image_size=(16, 32)), resize, augment)
    image = _train(steps, Image.new("RGB", (50, 20), (255, 0, 255)))
    assert image.dtype == torch.uint8
    image = steps.normalized(image)
    assert image.dtype == torch.float32
    assert type(image) is torch.Tensor
    assert image.shape == (3, 16, 32)
    torch.testing.assert_close(image[:, 8, 16], torch.tensor([1.0, -1.0, 1.0]))


def test_squash_keeps_the_whole_image() -> None:
    image = eval_transform(SPEC, "squash")(_halves(448, 112))
    assert (image[2] < 0.5).sum(1).tolist() == [112] * 224


@pytest.mark.parametrize("protocol", ["vpt", "raw"])
def test_crop_cuts_the_centre_of_the_short_side_at_256(protocol: Protocol) -> None:
    image = np.zeros((256, 512, 3), np.uint8)
    image[16:240, 144:368] = 255  # exactly the 224 pixels in the middle
    steps = settle(protocol, SPEC, "crop", augment=True)
    assert steps.short_side == 256
    assert steps.cut(steps.resized(Image.fromarray(image))).min() == 255
    image[16, 144] = 0
    corner = steps.cut(steps.resized(Image.fromarray(image)))[:, 0, 0]
    assert corner.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("crop", "short_side"), [(0.9, 248), (1.0, 224), (0.875, 256)])
def test_timm_crops_the_part_that_the_backbone_s_own_evaluation_does(
    crop: float, short_side: int
) -> None:
    assert settle("timm", replace(SPEC, crop=crop), "crop", False).short_side == short_side


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (257, 255), (10, 1000)])
def test_the_size_foretold_is_that_of_the_resized_image(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    for resize in ("crop", "squash"):
        steps = settle("vpt", SPEC, resize, augment=False)  # type: ignore[arg-type]
        assert steps.resized_size(size[1], size[0]) == tuple(steps.resized(image).shape[1:])


# A row of four pixels resized to two. Antialiased bilinear: a triangle of half-width 2 around the
# centres 1 and 3 of the source, weights at distances .5 .5 1.5 (2.5): .75 .75 .25 over their sum.
# Hence (3·0 + 3·40 + 1·80) / 7 = 28.57 and (40 + 3·80 + 3·200) / 7 = 125.71. TensorFlow 1 reads
# places 0 and 2, nothing between.
ROW = (0, 40, 80, 200)
BILINEAR = (29, 126)
TF1 = (0, 80)


def _bicubic(pixels: tuple[int, ...], centre: float) -> int:
    """Keys' kernel with a = -0.5, stretched over twice the distance, as Pillow antialiases."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    weights = [kernel((i + 0.5 - centre) / 2) for i in range(len(pixels))]
    return round(sum(w * p for w, p in zip(weights, pixels, strict=True)) / sum(weights))


@pytest.mark.parametrize(
    ("protocol", "interpolation", "mean", "std"),
    [
        ("vpt", "tf1", IMAGENET_MEAN, IMAGENET_STD),
        ("timm", "bicubic", (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)),
        ("raw", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_a_protocol_is_exact_to_the_pixel(
    protocol: Protocol,
    interpolation: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    steps = settle(protocol, replace(SPEC, image_size=(2, 2)), "squash", augment=False)
    image = Image.fromarray(np.array([ROW, ROW], np.uint8)).convert("RGB")
    assert steps.interpolation == interpolation
    values = TF1 if interpolation == "tf1" else [_bicubic(ROW, c) for c in (1.0, 3.0)]
    expected = torch.tensor(
        [[[(v / 255 - mean[c]) / std[c] for v in values]] * 2 for c in range(3)]
    )
    found = steps.normalized(steps.cut(steps.resized(image)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_fgvc_is_resized_by_pillow_s_bilinear() -> None:
    image = Image.fromarray(np.array([ROW] * 4, np.uint8)).convert("RGB")
    steps = replace(settle("vpt", SPEC, "crop", augment=False), short_side=2)
    assert steps.resized(image)[0].tolist() == [list(BILINEAR)] * 2


def test_tensorflow_1_reads_between_neighbours_and_ends_at_the_last() -> None:
    steps = settle("vpt", replace(SPEC, image_size=(1, 5)), "squash", augment=False)
    image = Image.fromarray(np.array([[0, 100], [200, 200]], np.uint8)).convert("RGB")
    # Places 0, .4, .8, 1.2, 1.6 of a row that ends at 1; of the two rows only the first is read.
    assert steps.resized(image)[1].tolist() == [[0, 40, 80, 100, 100]]


def test_timm_squashes_what_it_crops_from_where_the_backbone_does() -> None:
    spec = replace(SPEC, image_size=(20, 20), crop=0.5, squash=True)
    steps = settle("timm", spec, "crop", augment=False)
    assert steps.resized(_halves(80, 40)).shape == (3, 40, 40)
    assert str(steps).startswith("both sides 40, crop 20x20")
    assert settle("vpt", spec, "crop", augment=False).keep_aspect


def test_normalisation_gives_torchvision_s_bits() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1).unsqueeze(2)
    before = images.clone()
    scaled = v2.functional.to_dtype(images, torch.float32, scale=True)
    expected = v2.functional.normalize(scaled, list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert torch.equal(settle("vpt", SPEC, "squash", False).normalized(images), expected)
    assert torch.equal(images, before)


def test_imagenet_s_numbers() -> None:
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert IMAGENET_STD == (0.229, 0.224, 0.225)


def test_augmentation_mirrors_half_of_the_images() -> None:
    random = np.random.default_rng(0)
    steps = settle("vpt", SPEC, "squash", augment=True)
    image = steps.resized(_halves(224, 224))
    mirrored = sum(int(steps.cut(image, random)[2, 0, 0]) > 128 for _ in range(60))
    assert 20 < mirrored < 40


def test_the_crop_reaches_every_place_and_no_further() -> None:
    steps = settle("vpt", replace(SPEC, image_size=(2, 2)), "crop", augment=True)
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 4).expand(3, 3, 4)
    random = np.random.default_rng(0)
    corners = {min(steps.cut(image, random)[0].flatten().tolist()) for _ in range(200)}
    assert corners == {0, 1, 2, 4, 5, 6}


def test_augmentation_moves_the_crop() -> None:
    steps = settle("vpt", SPEC, "crop", augment=True)
    edges = {int((_train(steps, _halves(512, 256))[2, 0] > 128).sum()) for _ in range(10)}
    assert len(edges) > 5


def test_no_augmentation_is_the_evaluation_transform() -> None:
    image = _halves(300, 280)
    steps = settle("vpt", SPEC, "crop", augment=False)
    torch.testing.assert_close(
        steps.normalized(_train(steps, image)), eval_transform(SPEC, "crop", "vpt")(image)
    )


def test_the_interpolation_asked_for_is_used() -> None:
    bilinear = settle("timm", SPEC, "squash", False, "bilinear")
    assert bilinear == settle("timm", replace(SPEC, interpolation="bilinear"), "squash", False)
    assert settle("vpt", SPEC, "squash", False, "bicubic").interpolation == "bicubic"


def test_a_protocol_is_told_in_words() -> None:
    assert str(settle("vpt", SPEC, "crop", augment=True)) == (
        "short side 256, crop 224x224 (at random in training, else from the centre), bilinear, "
        "mirrored at random in training, mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225"
    )
    assert str(settle("raw", SPEC, "squash", augment=False)) == (
        "resized to 224x224, aspect not kept, bicubic, no augmentation, mean 0 0 0, deviation 1 1 1"
    )

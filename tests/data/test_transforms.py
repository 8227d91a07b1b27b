from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pcvpt.data.transforms import InputSpec, Resize, eval_transform, train_transform

SPEC = InputSpec((224, 224), (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))


def _halves(width: int, height: int) -> Image.Image:
    """The left half black, the right half white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("augment", [True, False])
def test_any_image_becomes_a_normalised_tensor(resize: Resize, augment: bool) -> None:
    spec = replace(SPEC, image_size=(16, 32))
    image = train_transform(spec, resize, augment)(Image.new("RGB", (50, 20), (255, 0, 255)))
    assert image.dtype == torch.float32
    assert type(image) is torch.Tensor
    assert image.shape == (3, 16, 32)
    torch.testing.assert_close(image[:, 8, 16], torch.tensor([1.0, -1.0, 1.0]))


def test_squash_keeps_the_whole_image() -> None:
    image = eval_transform(SPEC, "squash")(_halves(448, 112))
    assert (image[2] < 0.5).sum(1).tolist() == [112] * 224


def test_crop_cuts_the_centre_of_the_short_side_at_256() -> None:
    image = np.zeros((256, 512, 3), np.uint8)
    image[16:240, 144:368] = 255  # exactly the 224 pixels in the middle
    assert eval_transform(SPEC, "crop")(Image.fromarray(image))[2].min() == 1
    image[16, 144] = 0
    assert eval_transform(SPEC, "crop")(Image.fromarray(image))[2, 0, 0] == 0


def test_augmentation_mirrors_half_of_the_images() -> None:
    torch.manual_seed(0)
    transform = train_transform(SPEC, "squash", augment=True)
    image = _halves(224, 224)
    mirrored = sum(float(transform(image)[2, 0, 0]) > 0.5 for _ in range(60))
    assert 20 < mirrored < 40


def test_augmentation_moves_the_crop() -> None:
    torch.manual_seed(0)
    transform = train_transform(SPEC, "crop", augment=True)
    edges = {int((transform(_halves(512, 256))[2, 0] > 0.5).sum()) for _ in range(10)}
    assert len(edges) > 5


def test_no_augmentation_is_the_evaluation_transform() -> None:
    image = _halves(300, 280)
    torch.testing.assert_close(
        train_transform(SPEC, "crop", augment=False)(image), eval_transform(SPEC, "crop")(image)
    )


def test_the_interpolation_asked_for_is_used() -> None:
    bilinear = replace(SPEC, interpolation="bilinear")
    image = _halves(10, 10)
    # Bicubic overshoots at an edge and is clipped to black; bilinear does not reach it as early.
    assert not torch.equal(
        eval_transform(bilinear, "squash")(image), eval_transform(SPEC, "squash")(image)
    )

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from miniature.images import noise
from pcvpt.data.splits import Item
from pcvpt.data.tools.contact_sheet import choose, contact_sheet
from pcvpt.errors import UsageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _transform() -> v2.Compose:
    return v2.Compose(
        [
            v2.Resize((40, 40)),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(MEAN), list(STD)),
        ]
    )


def _items(*labels: int) -> list[Item]:
    return [Item(noise(seed, (40, 40, 3)), label) for seed, label in enumerate(labels)]


def _labels(items: tuple[Item, ...]) -> list[int]:
    return [item.label for item in items]


def test_the_choice_is_balanced_and_in_order_of_label() -> None:
    items = _items(2, 2, 2, 2, 0, 1, 0, 0, 1)
    assert _labels(choose(items, 6)) == [0, 0, 1, 1, 2, 2]
    assert _labels(choose(items, 4)) == [0, 0, 1, 2]
    assert choose(items, 3) == (items[4], items[5], items[0])


def test_a_class_that_runs_out_is_made_up_for_by_others() -> None:
    assert _labels(choose(_items(0, 1, 1, 1, 1, 1), 5)) == [0, 1, 1, 1, 1]
    assert len(choose(_items(0, 1, 1), 9)) == 3


def test_of_many_classes_some_at_even_distances_are_chosen() -> None:
    assert _labels(choose(_items(*range(100)), 4)) == [0, 25, 50, 75]
    assert choose([], 4) == choose(_items(0), 0) == ()


def test_the_sheet_shows_the_pixels_that_the_transform_gave() -> None:
    items = _items(0, 1, 2)
    sheet = contact_sheet({"train": items}, ("a", "b", "c"), _transform(), MEAN, STD, columns=2)
    pixels = np.asarray(sheet)
    for number, item in enumerate(items):
        # Anywhere, so that the test does not repeat how the sheet is laid out.
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (40, 40, 3))[:, :, 0]
        found = (windows == np.asarray(item.source)).all(axis=(2, 3, 4))
        assert found.sum() == 1, number


def test_rows_have_titles_and_labels() -> None:
    names = ("a", "b")
    plain = contact_sheet({"": _items(0)}, ("", ""), _transform(), MEAN, STD)
    titled = contact_sheet({"train": _items(0)}, ("", ""), _transform(), MEAN, STD)
    labelled = contact_sheet({"": _items(0)}, names, _transform(), MEAN, STD)
    assert len({plain.tobytes(), titled.tobytes(), labelled.tobytes()}) == 3
    two = contact_sheet({"a": _items(0), "b": _items(1)}, names, _transform(), MEAN, STD)
    assert two.width == plain.width
    assert two.height > 1.9 * plain.height


def test_a_long_name_stays_below_its_image() -> None:
    short = contact_sheet({"": _items(0)}, ["x"], _transform(), MEAN, STD)
    long = contact_sheet({"": _items(0)}, ["x" * 500], _transform(), MEAN, STD)
    assert short.size == long.size
    right = np.asarray(long)[-12:, -4:]
    assert (right == 255).all()


def test_a_sheet_without_images_or_columns_is_refused() -> None:
    with pytest.raises(UsageError, match="no images to show"):
        contact_sheet({"train": []}, (), _transform(), MEAN, STD)
    with pytest.raises(UsageError, match="columns is 0"):
        contact_sheet({"train": _items(0)}, ["a"], _transform(), MEAN, STD, columns=0)


def test_grey_images_are_shown_too() -> None:
    grey = Item(noise(0, (40, 40)), 0)
    sheet = contact_sheet({"test": [grey]}, ["a"], _transform(), MEAN, STD)
    assert isinstance(sheet, Image.Image)
    assert sheet.mode == "RGB"

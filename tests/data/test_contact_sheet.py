from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from miniature.images import noise
from miniature.reading import labels
from pcvpt.data import InputSpec, settle
from pcvpt.data.contact_sheet import choose, contact_sheet
from pcvpt.data.splits import Item
from pcvpt.errors import UsageError

SPEC = InputSpec((40, 40), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STEPS = settle("timm", SPEC, "squash", augment=False)


def _sheet(rows: dict[str, list[Item]], *names: str) -> Image.Image:
    return contact_sheet(rows, names, STEPS)


def _items(*labels: int) -> list[Item]:
    return [Item(noise(seed, (40, 40, 3)), label) for seed, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("given", "count", "chosen"),
    [
        ((2, 2, 2, 2, 0, 1, 0, 0, 1), 6, [0, 0, 1, 1, 2, 2]),
        ((2, 2, 2, 2, 0, 1, 0, 0, 1), 4, [0, 0, 1, 2]),
        ((0, 1, 1, 1, 1, 1), 5, [0, 1, 1, 1, 1]),  # a class runs out
        ((0, 1, 1), 9, [0, 1, 1]),
        (range(100), 4, [0, 25, 50, 75]),
        ((), 4, []),
        ((0,), 0, []),
    ],
)
def test_the_choice_is_balanced_and_in_order_of_label(
    given: Sequence[int], count: int, chosen: list[int]
) -> None:
    assert labels(choose(_items(*given), count)) == chosen
    items = _items(2, 2, 0, 1, 0, 1)
    assert choose(items, 3) == (items[2], items[3], items[0])  # the first of each class


def test_the_sheet_shows_the_pixels_that_a_model_gets() -> None:
    items = _items(*[0, 1, 2] * 3)  # more than stand side by side
    pixels = np.asarray(_sheet({"train": items}, "a", "b", "c"))
    for number, item in enumerate(items):
        # Anywhere, so that the test does not repeat how the sheet is laid out.
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (40, 40, 3))[:, :, 0]
        found = (windows == np.asarray(item.source)).all(axis=(2, 3, 4))
        assert found.sum() == 1, number


def test_rows_have_titles_and_labels() -> None:
    plain = _sheet({"": _items(0)}, "")
    titled = _sheet({"train": _items(0)}, "")
    labelled = _sheet({"": _items(0)}, "a")
    assert len({plain.tobytes(), titled.tobytes(), labelled.tobytes()}) == 3
    two = _sheet({"a": _items(0), "b": _items(1)}, "a", "b")
    assert two.width == plain.width
    assert two.height > 1.9 * plain.height


def test_a_long_name_stays_below_its_image() -> None:
    long = _sheet({"": _items(0)}, "x" * 500)
    assert long.size == _sheet({"": _items(0)}, "x").size
    assert (np.asarray(long)[-12:, -4:] == 255).all()


def test_a_sheet_without_images_is_refused() -> None:
    with pytest.raises(UsageError, match="no images to show"):
        _sheet({"train": []})

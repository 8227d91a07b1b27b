"""A sheet of images as the model sees them, each with its label."""

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import to_pil_image

from pcvpt.data.image_files import load
from pcvpt.data.splits import Item, by_label
from pcvpt.data.transforms import Preprocessing
from pcvpt.errors import UsageError

_GAP = 4  # pixels between images
_COLUMNS = 8
_LABEL, _TITLE = 14, 20  # sizes of the text in pixels


def choose(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    """Return up to ``count`` items, as evenly from all classes as possible, in order of label.

    Of each class the first items are taken. With more classes than ``count``, classes at even
    distances are taken.
    """
    members = by_label(items)
    labels = sorted(members)
    if 0 < count < len(labels):
        labels = [labels[number * len(labels) // count] for number in range(count)]
    ranked = sorted((rank, label) for label in labels for rank in range(len(members[label])))
    taken = sorted((label, rank) for rank, label in ranked[: max(count, 0)])
    return tuple(items[members[label][rank]] for label, rank in taken)


def contact_sheet(
    rows: Mapping[str, Sequence[Item]], class_names: Sequence[str], steps: Preprocessing
) -> Image.Image:
    """Draw the images of each title in ``rows`` below that title, with their labels.

    Args:
        rows: Images by title, such as ``{"train": choose(train, 16), "test": ...}``.
        class_names: Names of the classes, in the order of the labels.
        steps: Preprocessing, of which the resizing and the cutting are shown.

    Raises:
        UsageError: For no image at all, or one that cannot be decoded.
    """
    tiles = {
        title: [
            _tile(to_pil_image(steps.cut(steps.resized(load(source)))), label, class_names)
            for source, label in items
        ]
        for title, items in rows.items()
    }
    every = [tile for each in tiles.values() for tile in each]
    if not every:
        raise UsageError("there are no images to show; give a split that has some")
    width, height = (length + _GAP for length in every[0].size)
    across = min(_COLUMNS, max(map(len, tiles.values())))
    bands = [_TITLE + 2 * _GAP + math.ceil(len(t) / _COLUMNS) * height for t in tiles.values()]
    sheet = Image.new("RGB", (across * width + _GAP, sum(bands) + _GAP), "white")
    top = _GAP
    for band, (title, each) in zip(bands, tiles.items(), strict=True):
        font = ImageFont.load_default(_TITLE - 4)
        ImageDraw.Draw(sheet).text((_GAP, top), title, "black", font)
        for number, tile in enumerate(each):
            line, column = divmod(number, _COLUMNS)
            sheet.paste(tile, (_GAP + column * width, top + _TITLE + _GAP + line * height))
        top += band
    return sheet


def _tile(image: Image.Image, label: int, class_names: Sequence[str]) -> Image.Image:
    """Return an image with its label below, of which as much is shown as there is room for."""
    tile = Image.new("RGB", (image.width, image.height + _LABEL + _GAP), "white")
    tile.paste(image)
    text, font = f"{label} {class_names[label]}", ImageFont.load_default(_LABEL - 2)
    ImageDraw.Draw(tile).text((0, image.height), text, "black", font)
    return tile

"""A sheet of images as the model sees them, each with its label."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import to_pil_image

from pcvpt.data.image_files import load
from pcvpt.data.splits import Item
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
    members = defaultdict(list)
    for item in items:
        members[item.label].append(item)
    labels = sorted(members)
    if 0 < count < len(labels):
        labels = [labels[number * len(labels) // count] for number in range(count)]
    ranked = [
        (rank, label)
        for rank in range(max(map(len, members.values()), default=0))
        for label in labels
        if rank < len(members[label])
    ]
    taken = sorted((label, rank) for rank, label in ranked[: max(count, 0)])
    return tuple(members[label][rank] for label, rank in taken)


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
            (to_pil_image(steps.cut(steps.resized(load(item.source)))), item.label)
            for item in items
        ]
        for title, items in rows.items()
    }
    every = [image for each in tiles.values() for image, _ in each]
    if not every:
        raise UsageError("there are no images to show; give a split that has some")
    width, height = every[0].width + _GAP, every[0].height + _LABEL + 2 * _GAP
    lines = {title: math.ceil(len(each) / _COLUMNS) for title, each in tiles.items()}
    bands = {title: _TITLE + 2 * _GAP + count * height for title, count in lines.items()}
    across = min(_COLUMNS, max(map(len, tiles.values())))
    sheet = Image.new("RGB", (across * width + _GAP, sum(bands.values()) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(_LABEL - 2), ImageFont.load_default(_TITLE - 4)

    top = _GAP
    for title, each in tiles.items():
        draw.text((_GAP, top), title, "black", large)
        for number, (image, label) in enumerate(each):
            left = _GAP + number % _COLUMNS * width
            upper = top + _TITLE + _GAP + number // _COLUMNS * height
            sheet.paste(image, (left, upper))
            text = _shortened(f"{label} {class_names[label]}", width - _GAP, small)
            draw.text((left, upper + image.height), text, "black", small)
        top += bands[title]
    return sheet


def _shortened(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."

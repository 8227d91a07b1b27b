"""JSON splits as the VPT release reads them: ``{"relative/path.jpg": class id}``, a file each.

Jia et al., ECCV 2022 (https://arxiv.org/abs/2203.12119) give CUB, NABirds, Flowers, Dogs and Cars
so. The release numbers the classes of each file on its own, which shifts labels when a class is
missing from one; here the classes of train number those of all.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pcvpt.data.readers.listed_images import folder_names, listed_path, read_text, require_images
from pcvpt.data.splits import Item
from pcvpt.errors import UsageError

_EXPECTED = 'expected {"path/of/image.jpg": class id, ...}'
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


class JsonSplits(NamedTuple):
    """The images of JSON splits. A label is the position of its class in ``class_names``.

    ``val`` is None and ``test`` is empty where there is no such file.
    """

    train: tuple[Item, ...]
    val: tuple[Item, ...] | None
    test: tuple[Item, ...]
    class_names: tuple[str, ...]


def read_json_splits(images: Path, train: Path, val: Path | None, test: Path | None) -> JsonSplits:
    """Read JSON files into splits; class ids may be 1-based or have gaps.

    The classes are the ids in train in numeric order, and this one map serves all splits. They are
    named after their folders if each has one of its own in train, and after their ids if not.

    Args:
        images: folder that the paths in the files are relative to.
        train: file of the training images.
        val: file of the validation images, if there is one.
        test: file of the test images, if there is one.

    Raises:
        UsageError: as ``read_json``, and for a class of val or test that train does not have.
    """
    ids = read_json(train, images)
    classes = {class_id: label for label, class_id in enumerate(sorted(set(ids.values())))}
    names = folder_names(ids, images)
    return JsonSplits(
        _items(ids, classes, train),
        _items(read_json(val, images), classes, val) if val else None,
        _items(read_json(test, images), classes, test) if test else (),
        tuple(names.get(class_id, str(class_id)) for class_id in classes),
    )


def read_json(file: Path, images: Path) -> dict[Path, int]:
    """Read the class ids in ``file`` as they stand there, by image path in the file's order.

    An id may be a number or a string of digits. A byte order mark is accepted.

    Raises:
        UsageError: naming the file, if it is missing, not UTF-8, not JSON (with line and column),
            not one object or empty; naming the image too, for an id that is not an integer or is
            negative, an image listed twice, one outside ``images``, and those that do not exist.
    """
    ids: dict[Path, int] = {}
    for name, value in _pairs(file):
        path = listed_path(images, name, str(file))
        if not (isinstance(value, str) and _INTEGER.fullmatch(value)):
            raise UsageError(
                f"{file}: the class of {name!r} is {_shown(value)}, not an integer; {_EXPECTED}"
            )
        if int(value) < 0:
            raise UsageError(
                f"{file}: the class of {name!r} is {value}, a negative number; "
                "number classes from 0 or 1"
            )
        if path in ids:
            raise UsageError(f"{file}: {name!r} is listed twice; remove one of the two")
        ids[path] = int(value)
    if not ids:
        raise UsageError(f"{file}: empty; {_EXPECTED}")
    require_images(ids, file)
    return ids


class _Object(list[tuple[str, Any]]):
    """A JSON object that keeps a key that it holds twice."""


def _pairs(file: Path) -> _Object:
    try:
        # Integers stay digits: int() refuses very long ones, and true would pass for one.
        content = json.loads(read_text(file), object_pairs_hook=_Object, parse_int=str)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{file}:{error.lineno}:{error.colno}: not JSON ({error.msg}); {_EXPECTED}"
        ) from error
    except RecursionError as error:
        raise UsageError(f"{file}: nested too deeply; {_EXPECTED}") from error
    if not isinstance(content, _Object):
        raise UsageError(f"{file}: not a JSON object; {_EXPECTED}")
    return content


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "an object" if isinstance(value, _Object) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "..."


def _items(ids: Mapping[Path, int], classes: Mapping[int, int], file: Path) -> tuple[Item, ...]:
    for path, class_id in ids.items():
        if class_id not in classes:
            raise UsageError(
                f"{file}: class {class_id} of {path} does not occur in the train split; "
                "correct it or add training images of that class"
            )
    return tuple(Item(path, classes[class_id]) for path, class_id in ids.items())

"""JSON splits as the VPT release reads them: ``{"relative/path.jpg": class id}``, a file each.

Jia et al., ECCV 2022 (https://arxiv.org/abs/2203.12119) give CUB, NABirds, Flowers, Dogs and Cars
in this form. The release numbers the classes of each file separately, which shifts labels when a
class is missing from one; here the classes of train number those of all.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pcvpt.data.readers.class_ids import ClassIds, checked_ids, listed_splits
from pcvpt.data.readers.listed_images import folder_names, listed_path, read_text, require_images
from pcvpt.data.splits import TaskSplits
from pcvpt.errors import UsageError

_EXPECTED = '{"path/of/image.jpg": class id, ...}'


def read_json_splits(images: Path, train: Path, val: Path | None, test: Path | None) -> TaskSplits:
    """Read JSON files into splits, see ``listed_splits``; paths are relative to ``images``.

    Classes have the names of their folders if each has a folder for itself in train, and otherwise
    their ids.

    Raises:
        UsageError: As ``read_json`` and ``listed_splits``.
    """
    read, names_of = partial(read_json, images=images), partial(folder_names, images=images)
    return listed_splits(read, train, val, test, names_of)


def read_json(file: Path, images: Path) -> ClassIds:
    """Read the class ids in ``file``, unchanged, by image path in the file's order.

    An id may be a number or a string of digits. A byte order mark is accepted.

    Raises:
        UsageError: If the file is missing, not UTF-8, not JSON (with line and column), not one
            object or empty, or if an image lies outside ``images`` or does not exist. Also as
            ``checked_ids``.
    """
    ids = checked_ids(file, _entries(file, images), _EXPECTED)
    require_images(ids, file)
    return ids


class _Object(list[tuple[str, Any]]):
    """A JSON object that keeps a key that it holds twice."""


def _entries(file: Path, images: Path) -> Iterator[tuple[str, Path, Any]]:
    try:
        # Integers stay digits: int() refuses very long ones, and would accept true.
        content = json.loads(read_text(file), object_pairs_hook=_Object, parse_int=str)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{file}:{error.lineno}:{error.colno}: not JSON ({error.msg}); expected {_EXPECTED}"
        ) from error
    except RecursionError as error:
        raise UsageError(f"{file}: nested too deeply; expected {_EXPECTED}") from error
    if not isinstance(content, _Object):
        raise UsageError(f"{file}: not a JSON object; expected {_EXPECTED}")
    for name, value in content:
        yield f"{file}: {name!r}", listed_path(images, name, str(file)), value

"""VTAB-1k as TensorFlow Datasets prepared it, read without TensorFlow.

``<root>/<name>/[<config>/]<version>/`` holds ``dataset_info.json`` and the shards. Labels are read
for the images of the three sub-splits alone. A tfrecord shard is mapped into memory, so that this
costs about a page for each example that it holds up to the last one needed; an array_record file
has to be decompressed image by image, which costs one reading of the images used.
"""

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcvpt.data.layouts.base import Layout, Reading, places
from pcvpt.data.layouts.tfds.example import Features, bytes_in, floats_in, ints_in
from pcvpt.data.layouts.tfds.prepared import (
    Examples,
    Prepared,
    read_class_names,
    read_info,
)
from pcvpt.data.splits import Item, Record
from pcvpt.data.tasks import label_rules
from pcvpt.data.tasks.task import Task
from pcvpt.data.tasks.tfds_splits import Span, span, split_of
from pcvpt.errors import UsageError

_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")

# Later versions whose splits and order are those of the version that VTAB-1k is defined on.
_EQUAL = {
    "oxford_iiit_pet": (
        "4.*",
        "TFDS 4 re-encodes 12 of the images as JPEG; splits and order are those of version 3",
    ),
    "kitti": ("3.3.*", "version 3.3 names the values of `occluded`, and is 3.2 otherwise"),
}

# Labels that are computed, or are not called "label".
_LABELS: dict[str, Callable[[Features], int]] = {
    "clevr_count": lambda found: label_rules.clevr_count(len(ints_in(found["objects/size"]))),
    "clevr_dist": lambda found: label_rules.clevr_dist(
        floats_in(found["objects/pixel_coords"])[2::3].tolist()
    ),
    "kitti_dist": lambda found: label_rules.kitti_dist(
        ints_in(found["objects/type"]), floats_in(found["objects/location"])[2::3].tolist()
    ),
    "dsprites_loc": lambda found: label_rules.dsprites_loc(_one(found["label_x_position"])),
    "dsprites_ori": lambda found: label_rules.dsprites_ori(_one(found["label_orientation"])),
    "smallnorb_azi": lambda found: _one(found["label_azimuth"]),
    "smallnorb_ele": lambda found: _one(found["label_elevation"]),
}


class Images:
    """The images of a split as TFDS stores them.

    Args:
        examples: of the split.
        binary: pixels are 0 and 1, as those of dSprites, and become black and white.
    """

    def __init__(self, examples: Examples, binary: bool) -> None:
        self.examples = examples
        self.binary = binary

    def __getitem__(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return the bytes of an image file, or pixels (h, w) of a binary image.

        Raises:
            UsageError: naming the file, if it is damaged.
        """
        try:
            encoded = bytes_in(self.examples[index]["image"])
            if not self.binary:
                return encoded
            with Image.open(BytesIO(encoded)) as image:
                return np.asarray(image, np.uint8) * np.uint8(255)
        except UsageError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise self.examples.damaged(index, repr(error)) from error


def find(task: Task, root: Path) -> Path | None:
    """Return the folder of the newest version that will do; see ``Layout.find``."""
    if not task.tfds:
        return None
    name, config, _ = _wanted(task)
    above = [root, root / "tensorflow_datasets", *places(task, root)]
    for folder in above:
        for base in (folder / name / config, folder / config, folder):
            versions = [path for path in _versions(base) if _fits(task, path.name)]
            versions = [path for path in versions if any(path.glob(f"{name}-*"))]
            if versions:
                return max(versions, key=lambda path: [int(n) for n in path.name.split(".")])
    return None


def expected(task: Task) -> str:
    """Return what was looked for; see ``Layout.expected``."""
    if not task.tfds:
        return ""
    name, config, version = _wanted(task)
    others = f" (or {_EQUAL[name][0]})" if name in _EQUAL else ""
    folder = "/".join(part for part in (name, config, version) if part)
    return f"{folder}{others}/dataset_info.json and its shards, also in tensorflow_datasets/"


def read(task: Task, folder: Path) -> Reading:
    """Return the sub-splits of VTAB-1k; see ``Layout.read``."""
    prepared = read_info(folder)
    _check(task, prepared)
    binary = prepared.name == "dsprites"
    stores = {
        name: Images(Examples(prepared, name), binary)
        for name in dict.fromkeys(map(split_of, task.rules))
    }
    lengths = {name: len(images.examples) for name, images in stores.items()}
    train, val, test = (_items(task, stores, span(rule, lengths)) for rule in task.rules)
    version = "/".join(part for part in (prepared.name, prepared.config) if part)
    return Reading(
        train,
        val,
        test,
        class_names=_class_names(task, folder),
        source=f"tfds {version}:{prepared.version} ({prepared.file_format}) in {folder}",
        notes=tuple(_notes(task, prepared)),
    )


def _wanted(task: Task) -> tuple[str, str, str]:
    """Return (name, configuration or "", version), the last with a wildcard."""
    path, _, version = task.tfds.partition(":")
    name, _, config = path.partition("/")
    return name, config, version


def _versions(folder: Path) -> Iterator[Path]:
    """Yield ``folder``, or the folders in it, if they are named and filled as a version is."""
    if not folder.is_dir():
        return
    for path in (folder.resolve(), *folder.iterdir()):
        if _VERSION.fullmatch(path.name) and (path / "dataset_info.json").is_file():
            yield path


def _fits(task: Task, version: str) -> bool:
    name, _, wanted = _wanted(task)
    return fnmatch(version, wanted) or (name in _EQUAL and fnmatch(version, _EQUAL[name][0]))


def _check(task: Task, prepared: Prepared) -> None:
    name, config, _ = _wanted(task)
    found = (prepared.name, prepared.config if config else "")
    if found != (name, config) or not _fits(task, prepared.version):
        have = "/".join(part for part in (prepared.name, prepared.config) if part)
        raise UsageError(
            f"{prepared.folder / 'dataset_info.json'}: this is {have}:{prepared.version}, but "
            f"{task.name} is made from {task.tfds}; prepare that one"
        )


def _items(task: Task, stores: dict[str, Images], part: Span) -> tuple[Item, ...]:
    """Return a sub-split, with a label read for each of its images."""
    images = stores[part.split]
    examples = images.examples
    if part.start >= part.stop:
        raise UsageError(
            f"{examples.folder}: split {part.split!r} has {len(examples)} examples, too few for "
            f"the sub-splits {', '.join(task.rules)}; prepare the whole data set"
        )
    return tuple(
        Item(
            Record(images, index, f"{part.split}[{index}] in {examples.folder}"),
            _label(task, examples, index),
        )
        for index in range(part.start, part.stop)
    )


def _label(task: Task, examples: Examples, index: int) -> int:
    found = examples[index]
    try:
        label = _LABELS[task.name](found) if task.name in _LABELS else _one(found["label"])
    except (ValueError, KeyError) as error:
        fault = f"no feature {error}" if isinstance(error, KeyError) else str(error)
        raise examples.damaged(index, fault) from error
    if not 0 <= label < task.num_classes:
        raise examples.damaged(index, f"label {label} is not in 0..{task.num_classes - 1}")
    return label


def _class_names(task: Task, folder: Path) -> tuple[str, ...]:
    numbers = tuple(map(str, range(task.num_classes)))
    if task.name in _LABELS:
        return numbers
    names = read_class_names(folder, "label") or numbers
    if len(names) != task.num_classes:
        raise UsageError(
            f"{folder / 'label.labels.txt'}: {len(names)} classes, but {task.name} has "
            f"{task.num_classes}; prepare the data set anew"
        )
    return names


def _notes(task: Task, prepared: Prepared) -> Iterator[str]:
    if prepared.name in _EQUAL and not fnmatch(prepared.version, _wanted(task)[2]):
        yield _EQUAL[prepared.name][1]


def _one(feature: Any) -> int:
    values = ints_in(feature)
    if len(values) != 1:
        raise ValueError(f"{len(values)} labels where one is expected")
    return values[0]


LAYOUT = Layout("tfds", find, expected, read)

"""VTAB-1k as TensorFlow Datasets prepared it, read without TensorFlow.

``<root>/<name>/[<config>/]<version>/`` holds ``dataset_info.json`` and the shards. Labels are read
only for the images of the three sub-splits, each from the whole example, so that this costs one
reading of the images used. A tfrecord shard is mapped into memory; of the other examples up to the
last one needed, only the page with the length is read.
"""

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from pcvpt.data.layouts.base import Layout, require_classes
from pcvpt.data.layouts.tfds.example import Features, int_value
from pcvpt.data.layouts.tfds.info import INFO, Examples, read_info
from pcvpt.data.readers.listed_images import read_lines
from pcvpt.data.splits import Item, Record, TaskSplits
from pcvpt.data.tasks import label_rules
from pcvpt.data.tasks.table import Task
from pcvpt.data.tasks.tfds_splits import Span, span, split_of
from pcvpt.errors import UsageError

_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")

EQUIVALENT = {
    "oxford_iiit_pet": (
        "4.*",
        "TFDS 4 re-encodes 12 of the images as JPEG; splits and order are those of version 3",
    ),
    "kitti": ("3.3.*", "version 3.3 names the values of `occluded`, and is 3.2 otherwise"),
}
"""Later versions with the splits and the order of the version that VTAB-1k is defined on."""

# Labels that are computed, or are not called "label".
_LABELS: dict[str, Callable[[Features], int]] = {
    "clevr_count": lambda found: label_rules.clevr_count(
        len(found["objects/size"].int64_list.value)
    ),
    "clevr_dist": lambda found: label_rules.clevr_dist(
        found["objects/pixel_coords"].float_list.value[2::3]
    ),
    "kitti_dist": lambda found: label_rules.kitti_dist(
        found["objects/type"].int64_list.value, found["objects/location"].float_list.value[2::3]
    ),
    "dsprites_loc": lambda found: label_rules.dsprites(int_value(found["label_x_position"]), 32),
    "dsprites_ori": lambda found: label_rules.dsprites(int_value(found["label_orientation"]), 40),
    "smallnorb_azi": lambda found: int_value(found["label_azimuth"]),
    "smallnorb_ele": lambda found: int_value(found["label_elevation"]),
}


def required_files(task: Task) -> str:
    """Name the folder and the files in it; see ``Layout``."""
    if not task.tfds:
        return ""
    name, config, version = _parts(task)
    others = f" (or {EQUIVALENT[name][0]})" if name in EQUIVALENT else ""
    folder = "/".join(part for part in (name, config, version) if part)
    return f"{folder}{others}/{INFO} and its shards, also in tensorflow_datasets/"


def locate(task: Task, folder: Path) -> Path | None:
    """Return the folder of the newest suitable version."""
    name, config, _ = _parts(task)
    for parent in (folder, folder / "tensorflow_datasets"):
        for base in (parent / name / config, parent / config, parent):
            fitting = (path for path in _versions(base) if _fits(task, path.name))
            if versions := [path for path in fitting if any(path.glob(f"{name}-*"))]:
                return max(versions, key=lambda path: [int(n) for n in path.name.split(".")])
    return None


def read(task: Task, folder: Path) -> TaskSplits:
    """Return the sub-splits of VTAB-1k; see ``Layout``."""
    info = read_info(folder)
    name, config, version = _parts(task)
    full_name = "/".join(filter(None, (info.name, info.config)))
    found = (info.name, info.config if config else "")
    if found != (name, config) or not _fits(task, info.version):
        raise UsageError(
            f"{folder / INFO}: this is {full_name}:{info.version}, but {task.name} is made "
            f"from {task.tfds}; prepare that one"
        )
    stores = {split: Examples(info, split) for split in dict.fromkeys(map(split_of, task.rules))}
    lengths = {split: len(examples) for split, examples in stores.items()}
    train, val, test = (_items(task, stores, span(rule, lengths)) for rule in task.rules)
    source = f"tfds {full_name}:{info.version} ({info.file_format}) in {folder}"
    notes = () if fnmatch(info.version, version) else (EQUIVALENT[name][1],)
    return TaskSplits(train, val, test, _class_names(task, folder), source, notes)


def _parts(task: Task) -> tuple[str, str, str]:
    """Return name, configuration or "", and version, the last with a wildcard."""
    path, _, version = task.tfds.partition(":")
    name, _, config = path.partition("/")
    return name, config, version


def _versions(folder: Path) -> Iterator[Path]:
    """Yield ``folder``, or the folders in it, if they have a version's name and files."""
    if not folder.is_dir():
        return
    for path in (folder.resolve(), *folder.iterdir()):
        if _VERSION.fullmatch(path.name) and (path / INFO).is_file():
            yield path


def _fits(task: Task, version: str) -> bool:
    name, _, wanted = _parts(task)
    return any(fnmatch(version, each) for each in (wanted, *EQUIVALENT.get(name, ())[:1]))


def _items(task: Task, stores: dict[str, Examples], part: Span) -> tuple[Item, ...]:
    """Return a sub-split, with a label read for each of its images."""
    examples = stores[part.split]
    if part.start >= part.stop:
        raise UsageError(
            f"{examples.folder}: split {part.split!r} has {len(examples)} examples, too few for "
            f"the sub-splits {', '.join(task.rules)}; prepare the whole data set"
        )
    return tuple(
        Item(
            Record(examples, index, f"{part.split}[{index}] in {examples.folder}"),
            _label(task, examples, index),
        )
        for index in range(part.start, part.stop)
    )


def _label(task: Task, examples: Examples, index: int) -> int:
    found = examples.features(index)
    try:
        return _LABELS[task.name](found) if task.name in _LABELS else int_value(found["label"])
    except (ValueError, KeyError) as error:
        fault = f"no feature {error}" if isinstance(error, KeyError) else str(error)
        raise examples.damaged(index, fault) from error


def _class_names(task: Task, folder: Path) -> tuple[str, ...]:
    file = folder / "label.labels.txt"
    if task.name in _LABELS or not file.is_file():
        return tuple(map(str, range(task.num_classes)))
    names = tuple(filter(None, read_lines(file)))
    require_classes(len(names), task, file)
    return names


LAYOUT = Layout("tfds", required_files, locate, read)

"""VTAB-1k from the files that its authors publish, in the folders that torchvision makes of them.

Each reader returns ``SourceData``, which is ordered and cut as TFDS does it, so that the sub-splits
are those of VTAB-1k, see ``tfds_splits.py``. Keys, splits and labels are those of the builders in
tensorflow_datasets 4.9, ``datasets/`` and ``image_classification/``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pcvpt.data.layouts.base import Layout
from pcvpt.data.layouts.torchvision import arrays, image_folders, scenes
from pcvpt.data.layouts.torchvision.source import SourceData
from pcvpt.data.readers.listed_images import require_images
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.table import Task
from pcvpt.data.tasks.tfds_splits import span, tfds_order
from pcvpt.errors import UsageError


class _Format(NamedTuple):
    """The way a data set lies on disk."""

    subfolders: tuple[str, ...]  # that may hold it, in the task's own, the most likely first
    mark: str  # file or folder in it by which it is recognised
    read: Callable[[Path, Task], SourceData]


_CLEVR = _Format(("CLEVR_v1.0", ""), "scenes", scenes.clevr)
_DSPRITES = _Format(("",), arrays.DSPRITES, arrays.dsprites)
_NORB = _Format(("",), "smallnorb-*-training-dat.mat*", arrays.smallnorb)
_PCAM = "camelyonpatch_level_2_split_train_x.h5"
_FORMATS: dict[str, _Format] = {
    "cifar100": _Format(("cifar-100-python", ""), "meta", arrays.cifar100),
    "caltech101": _Format(
        ("101_ObjectCategories", "caltech-101/101_ObjectCategories"),
        "BACKGROUND_Google",
        image_folders.caltech101,
    ),
    "dtd": _Format(("dtd", ""), "labels/train1.txt", image_folders.dtd),
    "flowers102": _Format(("",), "setid.mat", image_folders.flowers102),
    "pets": _Format(("",), "annotations/trainval.txt", image_folders.pets),
    "svhn": _Format(("",), "train_32x32.mat", arrays.svhn),
    "sun397": _Format(("SUN397", ""), "ClassName.txt", image_folders.sun397),
    "patch_camelyon": _Format(("",), _PCAM, arrays.patch_camelyon),
    "eurosat": _Format(("2750", "EuroSAT/2750", ""), "AnnualCrop", image_folders.class_folders),
    "resisc45": _Format(("NWPU-RESISC45", ""), "airplane", image_folders.class_folders),
    "kitti_dist": _Format(("raw/training", "training"), "label_2", scenes.kitti),
    "clevr_count": _CLEVR,
    "clevr_dist": _CLEVR,
    "dsprites_loc": _DSPRITES,
    "dsprites_ori": _DSPRITES,
    "smallnorb_azi": _NORB,
    "smallnorb_ele": _NORB,
}


def required_files(task: Task) -> str:
    """Name the mark of the data set; see ``Layout``."""
    if task.name not in _FORMATS:
        return ""
    subfolders, mark, _ = _FORMATS[task.name]
    return f"the published files, recognised by {Path(subfolders[0]) / mark}"


def locate(task: Task, folder: Path) -> Path | None:
    """Return the first folder with the data set's mark in it."""
    subfolders, mark, _ = _FORMATS[task.name]
    return next((folder / name for name in subfolders if any((folder / name).glob(mark))), None)


def read(task: Task, folder: Path) -> TaskSplits:
    """Return the sub-splits of VTAB-1k; see ``Layout``."""
    data = _FORMATS[task.name].read(folder, task)
    orders = {name: tfds_order(name, split.keys) for name, split in data.splits.items()}
    lengths = {name: len(order) for name, order in orders.items()}
    chosen = []
    for rule in task.rules:
        name, start, stop = span(rule, lengths)
        if start >= stop:
            raise UsageError(
                f"{folder}: split {name!r} has {lengths[name]} images, and none of them is in "
                f"{rule}; get the whole data set"
            )
        chosen.append((name, orders[name][start:stop]))
    items: dict[str, dict[int, Item]] = {}
    for name, split in data.splits.items():
        # At once for all parts of a split: some files have to be read through for any image.
        used = sorted({at for other, positions in chosen if other == name for at in positions})
        items[name] = split.read(used)
        paths = [each.source for each in items[name].values() if isinstance(each.source, Path)]
        require_images(paths, split.file)
    train, val, test = (tuple(items[name][at] for at in positions) for name, positions in chosen)
    names = data.class_names or tuple(map(str, range(task.num_classes)))
    source = f"published files of {task.title} in {folder}"
    return TaskSplits(train, val, test, names, source, data.notes)


LAYOUT = Layout("torchvision", required_files, locate, read)

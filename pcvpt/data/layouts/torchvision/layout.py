"""VTAB-1k from the files that its authors publish, in the folders that torchvision makes of them.

Images are ordered and cut as TFDS does it, so that the sub-splits are those of VTAB-1k, see
``subsplits.py``.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pcvpt.data.layouts.base import Layout, Reading, places
from pcvpt.data.layouts.torchvision import arrays, image_folders, norb, scenes
from pcvpt.data.layouts.torchvision.splits import Raw
from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.data.tasks.tfds_splits import select
from pcvpt.errors import UsageError


class _Format(NamedTuple):
    """How a set lies on disk.

    Args:
        below: folders that may hold it, relative to the task's own, the likeliest first.
        mark: a file or folder in it by which it is known.
        read: it, given the folder and the number of classes.
    """

    below: tuple[str, ...]
    mark: str
    read: Callable[[Path, int], Raw]


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
    "patch_camelyon": _Format(
        ("",), "camelyonpatch_level_2_split_train_x.h5", arrays.patch_camelyon
    ),
    "eurosat": _Format(("2750", "EuroSAT/2750", ""), "AnnualCrop", image_folders.class_folders),
    "resisc45": _Format(("NWPU-RESISC45", ""), "airplane", image_folders.class_folders),
    "kitti_dist": _Format(("raw/training", "training"), "label_2", scenes.kitti),
    **{
        name: _Format(("CLEVR_v1.0", ""), "scenes", partial(scenes.clevr, task=name))
        for name in ("clevr_count", "clevr_dist")
    },
    **{
        name: _Format(("",), arrays.DSPRITES, partial(arrays.dsprites, task=name))
        for name in ("dsprites_loc", "dsprites_ori")
    },
    **{
        name: _Format(("",), "smallnorb-*-training-dat.mat*", partial(norb.smallnorb, task=name))
        for name in ("smallnorb_azi", "smallnorb_ele")
    },
}


def find(task: Task, root: Path) -> Path | None:
    """Return the folder with the set's mark in it; see ``Layout.find``."""
    if task.name not in _FORMATS:
        return None
    below, mark, _ = _FORMATS[task.name]
    for place in places(task, root):
        for name in below:
            if any((place / name).glob(mark)):
                return place / name
    return None


def expected(task: Task) -> str:
    """Return what was looked for; see ``Layout.expected``."""
    if task.name not in _FORMATS:
        return ""
    below, mark, _ = _FORMATS[task.name]
    return f"the published files, of which {Path(below[0]) / mark} is looked for"


def read(task: Task, folder: Path) -> Reading:
    """Return the sub-splits of VTAB-1k; see ``Layout.read``."""
    raw = _FORMATS[task.name].read(folder, task.num_classes)
    keys = {name: split.keys for name, split in raw.splits.items()}
    chosen = select(task.rules, keys)
    for rule, (split, positions) in zip(task.rules, chosen, strict=True):
        if not positions:
            raise UsageError(
                f"{folder}: split {split!r} has {len(keys[split])} images, and none of them is in "
                f"{rule}; get the whole data set"
            )
    items: dict[tuple[str, int], Item] = {}
    for name, each in raw.splits.items():
        # At once for all parts of a split: some files have to be read through for any image.
        used = sorted({number for split, ours in chosen if split == name for number in ours})
        found = each.items(used)
        items.update({(name, at): item for at, item in zip(used, found, strict=True)})
    train, val, test = (
        tuple(items[split, position] for position in positions) for split, positions in chosen
    )
    return Reading(
        train,
        val,
        test,
        class_names=raw.class_names or tuple(map(str, range(task.num_classes))),
        source=f"published files of {task.title} in {folder}",
        notes=raw.notes,
    )


LAYOUT = Layout("torchvision", find, expected, read)

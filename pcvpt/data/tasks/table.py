"""The 24 tasks, one row each of ``seeds/tasks.csv``.

Classes, sizes and sub-splits are those of Jia et al., ECCV 2022 (https://arxiv.org/abs/2203.12119),
and of VTAB (Zhai et al., https://arxiv.org/abs/1910.04867).
"""

from dataclasses import dataclass
from typing import Any, Literal

from pcvpt.data.published_results import read_table

_TEXTS = ("name", "title", "suite", "group", "licence", "homepage", "images", "tfds", "sibling")
_NUMBERS = ("num_classes", "train", "val", "test")


@dataclass(frozen=True)
class Task:
    """One row of the table of 24 tasks.

    Args:
        name: Name of the task, of its config and of its folder, such as ``cars``.
        title: Name of the data set, as its authors write it.
        suite: The benchmark; it sets the protocol's crop and augmentation.
        group: Group of the published means. The group ``fgvc`` is a suite by itself, the other
            three are the suite VTAB-1k.
        num_classes: Number of classes, those without an image in some split included.
        train: Number of images in the published training split.
        val: Number of images in the published validation split.
        test: Number of images in the test split.
        licence: Licence of the images, as far as their authors state one.
        homepage: Address of the authors' page.
        prompts: Number of prompts in each block of VPT-Deep on ViT-B/16.
        folders: Further names of the task's folder, the most common first. Case, ``-`` and ``_``
            do not count, see ``pcvpt.data.layouts.base.task_folders``.
        images: FGVC: folder in the task's own that the paths in its JSON splits are relative to.
        tfds: VTAB-1k: name, configuration and version in TFDS, such as ``sun397/tfds:4.*``.
        rules: VTAB-1k: TFDS sub-splits of train, val and test, see ``tfds_splits.py``.
        sibling: Name of another task with the same images and other labels.
    """

    name: str
    title: str
    suite: Literal["fgvc", "vtab"]
    group: Literal["fgvc", "natural", "specialized", "structured"]
    num_classes: int
    train: int
    val: int
    test: int
    licence: str
    homepage: str
    prompts: int
    folders: tuple[str, ...]
    images: str  # these four are empty where they do not apply
    tfds: str
    rules: tuple[str, str, str]
    sibling: str


def _task(row: dict[str, str]) -> Task:
    fields: dict[str, Any] = {name: row[name] for name in _TEXTS}
    fields |= {name: int(row[name]) for name in _NUMBERS}
    rules = row["train_split"], row["val_split"], row["test_split"]
    prompts, folders = int(row["deep_prompts_vit_b16"]), tuple(row["folders"].split())
    return Task(**fields, rules=rules, prompts=prompts, folders=folders)


TASKS = {row["name"]: _task(row) for row in read_table("tasks")}
"""The rows by name."""

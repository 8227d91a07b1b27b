"""What is known of a benchmark task before any of its files is read."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

Suite = Literal["fgvc", "vtab"]
Group = Literal["fgvc", "natural", "specialized", "structured"]


@dataclass(frozen=True)
class Task:
    """One row of the table of 24 tasks.

    Args:
        name: Name of the task, of its config and of its folder, such as ``cars``.
        title: Name of the data set, as its authors write it.
        group: Group of the published means. The group ``fgvc`` is a suite by itself, the other
            three are the suite VTAB-1k.
        num_classes: Number of classes, those without an image in some split included.
        train: Number of images in the published training split. Default: the 800 of VTAB-1k.
        val: Number of images in the published validation split. Default: the 200 of VTAB-1k.
        test: Number of images in the test split.
        licence: Licence of the images, as far as their authors state one.
        homepage: Address of the authors' page.
        prompts: Number of prompts in each block of VPT-Deep on ViT-B/16, from ``seeds/tasks.csv``.
        folders: Further names of the task's folder, the most common first. Case, ``-`` and ``_``
            do not count, see ``pcvpt.data.layouts.base.task_folders``.
        images: FGVC: folder in the task's own that the paths in its JSON splits are relative to.
        tfds: VTAB-1k: name, configuration and version in TFDS, such as ``sun397/tfds:4.*``.
        rules: VTAB-1k: TFDS sub-splits of train, val and test, see ``tfds_splits.py``.
        sibling: Name of another task with the same images and other labels.
    """

    name: str
    title: str
    group: Group
    num_classes: int
    _: KW_ONLY
    train: int = 800
    val: int = 200
    test: int
    licence: str
    homepage: str
    prompts: int
    folders: tuple[str, ...] = ()
    images: str = ""
    tfds: str = ""
    rules: tuple[str, str, str] = ("", "", "")
    sibling: str = ""

    @property
    def suite(self) -> Suite:
        """The benchmark, ``fgvc`` or ``vtab``. It sets the protocol's crop and augmentation."""
        return "fgvc" if self.group == "fgvc" else "vtab"

"""What is known of a benchmark task before any of its files is seen."""

from dataclasses import dataclass
from typing import Literal

Suite = Literal["fgvc", "vtab"]


@dataclass(frozen=True)
class Task:
    """One row of the table in ``tasks.py``.

    Args:
        name: of the task, its config and its folder, such as ``cars``.
        title: of the data set, as its authors call it.
        suite: ``fgvc`` or ``vtab``; it sets the protocol's crop and augmentation.
        group: of the published means: fgvc, natural, specialized or structured.
        num_classes: number of classes, also of those without an image in some split.
        train: images of the published training split (VTAB-1k: the 800).
        val: images of the published validation split (VTAB-1k: the 200).
        test: images of the test split.
        folders: names that the task's folder goes by, the commonest first. Case, ``-`` and ``_``
            do not count, see ``layouts.layout.places``.
        licence: of the images, as far as their authors state one.
        homepage: where the data come from.
        images: FGVC: folder below the task's own that its JSON splits are relative to.
        tfds: VTAB-1k: TFDS's name, configuration and version, such as ``sun397/tfds:4.*``.
        rules: VTAB-1k: TFDS sub-splits of train, val and test, see ``subsplits.py``.
        sibling: another task with the same images and other labels, such as ``clevr_dist``.
        prompts: per block of VPT-Deep on ViT-B/16, from ``seeds/tasks.csv``.
        normalization: mean and deviation of the ``vpt`` protocol.
    """

    name: str
    title: str
    suite: Suite
    group: str
    num_classes: int
    train: int
    val: int
    test: int
    folders: tuple[str, ...]
    licence: str
    homepage: str
    images: str = ""
    tfds: str = ""
    rules: tuple[str, str, str] = ("", "", "")
    sibling: str = ""
    prompts: int = 10
    normalization: Literal["imagenet"] = "imagenet"

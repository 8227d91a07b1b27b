"""The DataModule of the 24 tasks; a subclass only gives a row of the table."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from pcvpt.data import layouts
from pcvpt.data.datamodules.image import ImageDataModule
from pcvpt.data.layouts import Found, TaskSplits
from pcvpt.data.recorded_division import divide_as_recorded, record_division
from pcvpt.data.splits import Classes, Item, Splits
from pcvpt.data.tasks.table import Task
from pcvpt.data.transforms import Protocol, Resize
from pcvpt.errors import UsageError

LayoutName = Literal["json", "original", "lists", "tfds", "torchvision"]
_CHOICES = {"fgvc": ("train", "trainval"), "vtab": ("train800", "train800val200")}


class BenchmarkDataModule(ImageDataModule):
    """One of the 24 tasks, in any of the layouts on disk.

    Args:
        root: Folder of the task, or of several tasks.
        layout: Layout of the files on disk. Default: the first that is found.
        split: Images to train on: ``train`` (default) or ``trainval`` for FGVC, ``train800``
            (default) or ``train800val200`` for VTAB-1k. In ``trainval`` and ``train800val200``,
            val is a part of the training images: it chooses nothing, and the last epoch counts.
        val_fraction: FGVC: part of train that becomes val if the layout has no val.
        split_seed: Seed of that division, which is recorded beside the data.
        protocol: Rules of resizing and normalisation: ``timm``, ``vpt`` or ``raw``.
        resize: ``crop`` keeps the aspect ratio, ``squash`` keeps the whole image. Default:
            ``crop`` for FGVC, ``squash`` for VTAB-1k.
        augment: Whether training images are mirrored, and with ``crop`` cropped, at random.
            Default: true for FGVC, false for VTAB-1k.
        check_images: Whether every image of train and val is decoded once before training, and
            every test image before a test. ``pcvpt data verify`` decodes all.
        kwargs: Arguments of ``ImageDataModule``.
    """

    row: ClassVar[Task]

    def __init_subclass__(cls, row: Task | None = None) -> None:
        super().__init_subclass__()
        if row:
            cls.row = row
            described = f"{row.title}: {row.num_classes} classes, {row.test:,} test images."
            cls.__doc__ = cls.__doc__ or described

    def __init__(
        self,
        root: str = "data",
        layout: LayoutName | None = None,
        split: str | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        protocol: Protocol = "vpt",
        resize: Resize | None = None,
        augment: bool | None = None,
        check_images: bool = True,
        **kwargs: Any,
    ) -> None:
        fgvc = self.row.suite == "fgvc"
        super().__init__(
            protocol=protocol,
            resize=resize or ("crop" if fgvc else "squash"),
            augment=fgvc if augment is None else augment,
            check_images=check_images,
            **kwargs,
        )
        choices = _CHOICES[self.row.suite]
        if split not in (None, *choices):
            raise UsageError(
                f"split is {split!r}, but {self.row.name} trains on {' or '.join(choices)}"
            )
        self.root = Path(root).expanduser()
        self.layout = layout
        self.split = split or choices[0]
        self.held_out = self.split == choices[0]
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    @cached_property
    def found(self) -> Found:
        """Folder and layout of the images."""
        return layouts.find(self.row, self.root, self.layout)

    @cached_property
    def task_splits(self) -> TaskSplits:
        """The images as the layout gives them."""
        return self.found.read(self.row)

    @property
    @override
    def source(self) -> str:
        return f"{self.row.name}, {self.task_splits.source}"

    @property
    @override
    def num_classes(self) -> int:
        return self.row.num_classes

    @property
    @override
    def classes(self) -> Classes:
        return Classes(self.class_names, self.row.name)

    @override
    def use_classes(self, classes: Classes | None) -> None:
        # Layouts of one task may give the same labels other names.
        same = classes is not None and classes.task == self.row.name
        super().use_classes(None if same else classes)

    @override
    def read_splits(self) -> Splits:
        splits = self.task_splits
        train, val = splits.train, splits.val
        if val is None:
            train, val = divide_as_recorded(
                train, splits.class_names, self.val_fraction, self.split_seed, self.found.folder
            )
        if not self.held_out:
            train = train + val
        return Splits(train, val, splits.test, splits.class_names)

    @property
    def notes(self) -> list[str]:
        """Known differences of these images and splits from the published task."""
        splits, row = self.task_splits, self.row
        notes = list(splits.notes)
        for name, count, published in (
            ("train and val", len(splits.train) + len(splits.val or ()), row.train + row.val),
            ("test", len(splits.test), row.test),
        ):
            if count != published:
                notes.append(
                    f"{name} has {count:,} images here, {published:,} in the published task; see "
                    f"`pcvpt data verify {row.name}`"
                )
        if splits.val is None:
            notes.append("val divided off train by pcvpt, not the division of the VPT release")
        return notes

    @override
    def describe(self) -> dict[str, Any]:
        described = super().describe()
        return {"task": self.row.name, "split": self.split, **described, "notes": self.notes}

    @override
    def prepare_data(self) -> None:
        super().prepare_data()
        if self.predict_images and self.trainer and self.trainer.state.fn == "predict":
            return  # the images of the task may be gone
        others = [str(f) for f in layouts.find_all(self.row, self.root) if f != self.found]
        told = self.notes
        if others and self.layout is None:
            told.append(f"reading {self.found}; data.layout chooses another: {', '.join(others)}")
        if not self.held_out:
            told.append("val is a part of the training images: its accuracy tells nothing")
        if self.task_splits.val is None:
            given = self._own_splits.val, self.val_fraction, self.split_seed, self.found.folder
            file = record_division(self.task_splits.train, *given)
            where = f"recorded in {file}" if file else "not recorded: the folder is not writable"
            told.append(f"{len(self.splits.val):,} images of val, {where}")
        for note in told:
            rank_zero_info(f"{self.row.name}: {note}")

    @override
    def items_to_check(self, stage: str | None) -> Iterable[Item]:
        if stage == "fit":
            return self.splits.train + (self.splits.val if self.held_out else ())
        return super().items_to_check(stage)

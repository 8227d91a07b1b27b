"""The DataModule of the 24 tasks; a subclass only names a row of the table."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from pcvpt.data import held_out, layouts
from pcvpt.data.datamodules.image import ImageDataModule
from pcvpt.data.layouts import Found, TaskSplits
from pcvpt.data.splits import Item, Splits
from pcvpt.data.tasks.task import Task
from pcvpt.data.transforms import Protocol, Resize
from pcvpt.errors import UsageError

LayoutName = Literal["json", "original", "lists", "tfds", "torchvision"]
_CHOICES = {"fgvc": ("train", "trainval"), "vtab": ("train800", "train800val200")}


class BenchmarkDataModule(ImageDataModule):
    """One of the 24 tasks, in whichever layout its files lie on disk.

    Args:
        root: folder of the task, or of several tasks.
        layout: the layout to take where several are there; None takes the first.
        split: what is trained on: ``train`` or ``trainval`` (FGVC), ``train800`` or
            ``train800val200`` (VTAB-1k). None takes the first. With the second, val is a part of
            what is trained on: it chooses nothing, and the last epoch counts.
        val_fraction: FGVC: part of train that becomes val where the layout does not divide.
        split_seed: of that division, which is written beside the data.
        protocol: as for ``ImageDataModule``.
        resize: None takes the suite's: ``crop`` for FGVC, ``squash`` for VTAB-1k.
        augment: None takes the suite's: in FGVC, not in VTAB-1k.
        check_images: decode every image of train and val before training, and those of the test
            split before a test; ``pcvpt data verify`` decodes all.
        kwargs: as for ``ImageDataModule``.
    """

    row: ClassVar[Task]

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
        """Where the images lie, and how."""
        return layouts.find(self.row, self.root, self.layout)

    @cached_property
    def reading(self) -> TaskSplits:
        """The images as the layout gives them."""
        return self.found.read(self.row)

    @property
    @override
    def source(self) -> str:
        return f"{self.row.name}, {self.reading.source}"

    @property
    @override
    def num_classes(self) -> int:
        return self.row.num_classes

    @override
    def read_splits(self) -> Splits:
        reading = self.reading
        train, val = reading.train, reading.val
        if val is None:
            train, val = held_out.divided(
                train, reading.class_names, self.val_fraction, self.split_seed, self.found.folder
            )
        if not self.held_out:
            train = train + val
        return Splits(train, val, reading.test, reading.class_names)

    @override
    def describe(self) -> dict[str, Any]:
        notes = [*self.reading.notes, *self._incomplete()]
        if self.reading.val is None:
            notes.append("val divided off train by pcvpt, not the division of the VPT release")
        return {"task": self.row.name, "split": self.split, **super().describe(), "notes": notes}

    @override
    def prepare_data(self) -> None:
        super().prepare_data()
        others = [str(f) for f in layouts.find_all(self.row, self.root) if f != self.found]
        if others and self.layout is None:
            rank_zero_info(
                f"{self.row.name}: taking {self.found}; there is also {', '.join(others)}: "
                "data.layout chooses"
            )
        for note in (*self.reading.notes, *self._incomplete()):
            rank_zero_info(f"{self.row.name}: {note}")
        if not self.held_out:
            rank_zero_info(f"{self.row.name}: val is part of what is trained on; it proves nothing")
        if self.reading.val is None:
            self._record_division()

    def _incomplete(self) -> list[str]:
        """Say where there are more or fewer images than the published task has."""
        reading, row = self.reading, self.row
        there = {"train and val": len(reading.train) + len(reading.val or ())}
        there["test"] = len(reading.test)
        published = {"train and val": row.train + row.val, "test": row.test}
        return [
            f"{name} has {count:,} images here, {published[name]:,} in the published task; "
            f"`pcvpt data verify {row.name}` says more"
            for name, count in there.items()
            if count != published[name]
        ]

    def _record_division(self) -> None:
        val, folder = self.splits.val, self.found.folder
        options = self.val_fraction, self.split_seed
        file = held_out.record(self.reading.train, val, *options, folder)
        where = f"recorded in {file}" if file else f"{folder} is not writable, so not recorded"
        rank_zero_info(
            f"{self.row.name}: no list of validation images here, so {len(val):,} were divided off "
            f"train (not the division of the VPT release); {where}"
        )

    @override
    def _items_of(self, stage: str | None) -> Iterable[Item]:
        if stage == "fit":
            return self.splits.train + (self.splits.val if self.held_out else ())
        return super()._items_of(stage)

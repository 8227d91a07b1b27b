"""Which images a task has, and with which labels: those of its own classes, or of a model's."""

from abc import ABC, abstractmethod
from functools import cached_property

from lightning import LightningDataModule

from pcvpt.data.hashes import splits_hash
from pcvpt.data.splits import Classes, Splits
from pcvpt.errors import UsageError


class LabelledDataModule(LightningDataModule, ABC):
    """A DataModule that knows its splits and classes. A subclass implements ``read_splits``."""

    def __init__(self) -> None:
        super().__init__()
        self._classes: Classes | None = None

    @abstractmethod
    def read_splits(self) -> Splits:
        """Read the task's splits: names and labels, but no pixels of files."""

    @cached_property
    def _own_splits(self) -> Splits:
        return self.read_splits()

    @cached_property
    def splits(self) -> Splits:
        """The task's splits, read on first use; see :meth:`use_classes`."""
        own = self._own_splits
        names = own.class_names if self._classes is None else self._classes.names
        unknown = sorted({*own.class_names} - {*names})
        if unknown:
            missing = ", ".join(sorted({*names} - {*own.class_names})) or "none"
            raise UsageError(
                f"{self.source}: the model was not trained on the classes {', '.join(unknown):.300}"
                f" (of its own classes these data lack {missing:.300}); give the classes the names "
                "that they had in training, remove those that are new, or train a new model"
            )
        return own.labelled_by(names)

    @cached_property
    def hash(self) -> str:
        """Hash of the images and labels, see ``pcvpt.data.hashes.splits_hash``."""
        return splits_hash(self.splits)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels; needs no ``setup``."""
        return self.splits.class_names if self._classes is None else self._classes.names

    @property
    def classes(self) -> Classes:
        """The classes, as a model that is trained on them remembers them."""
        return Classes(self.class_names)

    def use_classes(self, classes: Classes | None) -> None:
        """Take the labels of a model with ``classes``, by their names; None for the data's own.

        The data may lack some of the classes. Reading :attr:`splits` raises a UsageError if they
        have others.
        """
        self._classes = classes
        for name in "splits", "hash":
            self.__dict__.pop(name, None)

    @property
    def num_classes(self) -> int:
        """Number of classes; needs no ``setup``."""
        names = self.class_names
        if len(names) < 2:
            raise UsageError(
                f"{self.source}: {', '.join(names)} is the only class; a classifier needs 2 "
                "(a folder that holds those of the classes is one too many: move them up)"
            )
        return len(names)

    @property
    def source(self) -> str:
        """Source of the images, as text for users and records."""
        return type(self).__name__

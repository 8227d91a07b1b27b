"""Oxford Flowers as its authors give it: two MATLAB files and numbered images."""

from pathlib import Path

from pcvpt.data.layouts.mat import MatFile
from pcvpt.data.readers.listed_images import require_images, subfolder
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError

_SPLITS, _LABELS = "setid.mat", "imagelabels.mat"
REQUIRED_FILES = f"{_SPLITS} and {_LABELS}, with the images in jpg/"


def has_files(task: Task, folder: Path) -> bool:
    """Return whether the two files are in ``folder``."""
    return (folder / _SPLITS).is_file() and (folder / _LABELS).is_file()


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the three official splits; the authors number the classes and do not name them."""
    images = subfolder(folder, "jpg")
    labels = MatFile(folder / _LABELS).labels("labels", task.num_classes)
    numbers = MatFile(folder / _SPLITS)
    splits = []
    for variable in "trnid", "valid", "tstid":
        split = []
        for number in numbers.integers(variable):
            if not 1 <= number <= len(labels):
                raise UsageError(
                    f"{folder / _SPLITS}: {variable} has image {number}, but {_LABELS} has "
                    f"images 1 to {len(labels)}; get both again"
                )
            split.append(Item(images / f"image_{number:05}.jpg", labels[number - 1]))
        require_images([Path(str(path)) for path, _ in split], folder / _SPLITS)
        splits.append(tuple(split))
    train, val, test = splits
    names = tuple(str(number) for number in range(1, task.num_classes + 1))
    return TaskSplits(train, val, test, names, source=f"original files in {folder}")

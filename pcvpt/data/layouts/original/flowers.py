"""Oxford Flowers as its authors give it: two MATLAB files and numbered images."""

from pathlib import Path

from pcvpt.data.layouts.base import Reading
from pcvpt.data.layouts.original.mat import MatFile
from pcvpt.data.readers.listed_images import require_images, subfolder
from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

_SPLITS, _LABELS = "setid.mat", "imagelabels.mat"
EXPECTED = f"{_SPLITS} and {_LABELS}, with the images in jpg/"


def there(task: Task, folder: Path) -> bool:
    """Return whether the files are in ``folder``."""
    return (folder / _SPLITS).is_file() and (folder / _LABELS).is_file()


def read(task: Task, folder: Path) -> Reading:
    """Read the three official splits; the authors number the classes and do not name them.

    Raises:
        UsageError: as ``MatFile``, and for an image number without a label or a file.
    """
    images = subfolder(folder, "jpg")
    labels = MatFile(folder / _LABELS).labels("labels", None, task.num_classes)
    sets = MatFile(folder / _SPLITS)
    splits = []
    for variable in "trnid", "valid", "tstid":
        numbers = sets.integers(variable)
        for number in numbers:
            if not 1 <= number <= len(labels):
                raise UsageError(
                    f"{folder / _SPLITS}: {variable} has image {number}, but {_LABELS} has "
                    f"images 1 to {len(labels)}; get both anew"
                )
        splits.append(
            tuple(Item(images / f"image_{number:05}.jpg", labels[number - 1]) for number in numbers)
        )
    train, val, test = splits
    paths = [item.source for split in splits for item in split if isinstance(item.source, Path)]
    require_images(paths, folder / _SPLITS)
    names = tuple(str(number) for number in range(1, task.num_classes + 1))
    return Reading(train, val, test, names, source=f"original files in {folder}")

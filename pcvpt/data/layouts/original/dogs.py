"""Stanford Dogs as its authors give it: a MATLAB list of each split and folders of images."""

from itertools import starmap
from pathlib import Path

from pcvpt.data.layouts.base import Reading
from pcvpt.data.layouts.original.mat import MatFile
from pcvpt.data.readers.listed_images import folder_names, listed_path, require_images, subfolder
from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

_TRAIN, _TEST = "train_list.mat", "test_list.mat"
EXPECTED = f"{_TRAIN} and {_TEST} (or lists/{_TRAIN} and lists/{_TEST}), with the images in Images/"


def there(task: Task, folder: Path) -> bool:
    """Return whether the lists are in ``folder`` or its ``lists``."""
    return _lists(folder) is not None


def read(task: Task, folder: Path) -> Reading:
    """Read the two official splits; the classes are named after their folders.

    Raises:
        UsageError: as ``MatFile``, and for a list with more images than labels or the reverse, an
            image listed twice or outside ``Images``, and images that do not exist.
    """
    images = subfolder(folder, "Images")
    lists = _lists(folder) or folder
    train, test = (_labels(lists / name, images, task) for name in (_TRAIN, _TEST))
    names = folder_names(train | test, images)
    return Reading(
        train=tuple(starmap(Item, train.items())),
        val=None,
        test=tuple(starmap(Item, test.items())),
        class_names=tuple(names.get(label, str(label + 1)) for label in range(task.num_classes)),
        source=f"original files in {folder}",
    )


def _lists(folder: Path) -> Path | None:
    for place in folder, folder / "lists":
        if (place / _TRAIN).is_file() and (place / _TEST).is_file():
            return place
    return None


def _labels(file: Path, images: Path, task: Task) -> dict[Path, int]:
    content = MatFile(file)
    paths = [listed_path(images, name, str(file)) for name in content.texts("file_list")]
    labels = content.labels("labels", None, task.num_classes)
    if len(paths) != len(labels):
        raise UsageError(f"{file}: {len(paths)} images, but {len(labels)} labels; get it anew")
    if len(paths) != len(set(paths)):
        raise UsageError(f"{file}: lists an image twice; get it anew")
    require_images(paths, file)
    return dict(zip(paths, labels, strict=True))

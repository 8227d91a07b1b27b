"""Stanford Dogs as its authors give it: a MATLAB list of each split and folders of images."""

from itertools import starmap
from pathlib import Path

from pcvpt.data.layouts.mat import MatFile
from pcvpt.data.readers.listed_images import folder_names, listed_path, require_images, subfolder
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

_TRAIN, _TEST = "train_list.mat", "test_list.mat"
REQUIRED_FILES = (
    f"{_TRAIN} and {_TEST} (or lists/{_TRAIN} and lists/{_TEST}), with the images in Images/"
)


def has_files(task: Task, folder: Path) -> bool:
    """Return whether the two lists are in ``folder`` or its folder ``lists``."""
    return _folder_of_lists(folder) is not None


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the two official splits; the classes are named after their folders."""
    images = subfolder(folder, "Images")
    lists = _folder_of_lists(folder) or folder
    train, test = (_read_list(lists / name, images, task) for name in (_TRAIN, _TEST))
    names = folder_names(train | test, images)
    return TaskSplits(
        train=tuple(starmap(Item, train.items())),
        val=None,
        test=tuple(starmap(Item, test.items())),
        class_names=tuple(names.get(label, str(label + 1)) for label in range(task.num_classes)),
        source=f"original files in {folder}",
    )


def _folder_of_lists(folder: Path) -> Path | None:
    places = (folder, folder / "lists")
    found = (p for p in places if (p / _TRAIN).is_file() and (p / _TEST).is_file())
    return next(found, None)


def _read_list(file: Path, images: Path, task: Task) -> dict[Path, int]:
    """Return the label of each image in a list."""
    content = MatFile(file)
    paths = [listed_path(images, name, str(file)) for name in content.texts("file_list")]
    labels = content.labels("labels", None, task.num_classes)
    if len(paths) != len(labels):
        raise UsageError(f"{file}: {len(paths)} images, but {len(labels)} labels; get it again")
    if len(paths) != len(set(paths)):
        raise UsageError(f"{file}: lists an image twice; get it again")
    require_images(paths, file)
    return dict(zip(paths, labels, strict=True))

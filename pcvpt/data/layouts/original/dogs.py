"""Stanford Dogs as its authors give it: a MATLAB list of each split and folders of images."""

from pathlib import Path

from pcvpt.data.layouts.mat import MatFile
from pcvpt.data.readers.listed_images import folder_names, subfolder
from pcvpt.data.splits import TaskSplits
from pcvpt.data.tasks.table import Task

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
    train, test = (
        MatFile(lists / name).items(images, "file_list", "labels", task.num_classes)
        for name in (_TRAIN, _TEST)
    )
    ids = [str(number) for number in range(1, task.num_classes + 1)]
    class_names = folder_names(train + test, images, ids)
    return TaskSplits(train, None, test, class_names, f"original files in {folder}")


def _folder_of_lists(folder: Path) -> Path | None:
    places = (folder, folder / "lists")
    found = (p for p in places if (p / _TRAIN).is_file() and (p / _TEST).is_file())
    return next(found, None)

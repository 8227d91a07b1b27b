"""Stanford Cars in the three forms in which it is distributed.

``devkit``: annotations of train and of test in one file each, images in ``cars_train`` and
``cars_test``. ``cars_annos.mat``: one file for both, images in ``car_ims``. Two CSV files, see
``cars_csv.py``. The authors' site is gone; which form you can get depends on the copy.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pcvpt.data.layouts.base import require_classes
from pcvpt.data.layouts.mat import MatFile
from pcvpt.data.layouts.original import cars_csv
from pcvpt.data.readers.listed_images import find_subfolder, subfolder
from pcvpt.data.splits import TaskSplits, parted
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError

_TRAIN, _TEST = "cars_train_annos.mat", "cars_test_annos.mat"
_LABELLED, _BOTH, _NAMES = "cars_test_annos_withlabels.mat", "cars_annos.mat", "cars_meta.mat"
REQUIRED_FILES = (
    f"{_TRAIN} and {_LABELLED} (there or in devkit/) with the images in cars_train/ and "
    f"cars_test/; {_BOTH} with the images in car_ims/; or {cars_csv.REQUIRED_FILES}"
)


def has_files(task: Task, folder: Path) -> bool:
    """Return whether the files of one of the forms are in ``folder``."""
    return any(_forms(task, folder))


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the two official splits, from the first form whose files and images exist."""
    forms = list(_forms(task, folder))
    with_images = [read for images, read in forms if find_subfolder(folder, images)]
    return (with_images or [forms[0][1]])[0]()


def _forms(task: Task, folder: Path) -> Iterator[tuple[str, Callable[[], TaskSplits]]]:
    """Yield the folder of images of each form whose files exist, and what reads it."""
    train, test = _file(folder, _TRAIN), _file(folder, _LABELLED) or _file(folder, _TEST)
    if train and test:
        yield "cars_train", partial(_read_devkit, task, folder, train, test)
    if both := _file(folder, _BOTH):
        yield "car_ims", partial(_read_both, task, folder, both)
    if files := cars_csv.find_files(folder):
        yield ".", lambda: cars_csv.read(task, folder, *files, _class_names(task, folder))


def _read_devkit(task: Task, folder: Path, train: Path, test: Path) -> TaskSplits:
    if not MatFile(test).has("annotations.class"):
        raise UsageError(
            f"{test}: has no labels of the test images; put {_LABELLED}, which the authors "
            "give apart from the devkit, beside it"
        )
    fields = "annotations.fname", "annotations.class", task.num_classes
    return TaskSplits(
        MatFile(train).items(subfolder(folder, "cars_train"), *fields),
        None,
        MatFile(test).items(subfolder(folder, "cars_test"), *fields),
        _class_names(task, folder) or tuple(map(str, range(1, task.num_classes + 1))),
        source=f"original files (devkit) in {folder}",
    )


def _read_both(task: Task, folder: Path, file: Path) -> TaskSplits:
    subfolder(folder, "car_ims")  # the paths begin with it
    content = MatFile(file)
    fields = "annotations.relative_im_path", "annotations.class", task.num_classes
    items = content.items(folder, *fields)
    is_test = content.integers("annotations.test")
    if set(is_test) != {0, 1}:
        raise UsageError(
            f"{file}: annotations.test must be 1 for test images and 0 for others, but it is "
            f"{str(sorted(set(is_test)))[:40]}; get the authors' own file"
        )
    train, test = parted(items, {number for number, flag in enumerate(is_test) if flag})
    names = _class_names(task, folder, _BOTH)
    return TaskSplits(train, None, test, names, f"original files ({_BOTH}) in {folder}")


def _class_names(task: Task, folder: Path, name: str = _NAMES) -> tuple[str, ...]:
    """Return the names of the classes in a file; none without that file."""
    file = _file(folder, name)
    if file is None:
        return ()
    names = MatFile(file).texts("class_names")
    require_classes(len(names), task, file, "class names")
    return tuple(names)


def _file(folder: Path, name: str) -> Path | None:
    """Return the file called ``name`` in ``folder`` or its devkit, or None."""
    return next((f for f in (folder / name, folder / "devkit" / name) if f.is_file()), None)

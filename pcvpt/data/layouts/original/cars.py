"""Stanford Cars in the three forms in which it is distributed.

``devkit``: annotations of train and of test in one file each, images in ``cars_train`` and
``cars_test``. ``cars_annos.mat``: one file for both, images in ``car_ims``. Two CSV files, see
``cars_csv.py``. The authors' site is gone; which form you can get depends on the copy.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pcvpt.data.layouts.base import require_classes
from pcvpt.data.layouts.mat import MatFile
from pcvpt.data.layouts.original import cars_csv
from pcvpt.data.readers.listed_images import find_subfolder, listed_path, require_images, subfolder
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

_TRAIN, _TEST = "cars_train_annos.mat", "cars_test_annos.mat"
_LABELLED, _BOTH, _NAMES = "cars_test_annos_withlabels.mat", "cars_annos.mat", "cars_meta.mat"
REQUIRED_FILES = (
    f"{_TRAIN} and {_LABELLED} (there or in devkit/) with the images in cars_train/ and "
    f"cars_test/; {_BOTH} with the images in car_ims/; or {cars_csv.REQUIRED_FILES}"
)


class _Form(NamedTuple):
    has_files: Callable[[Path], bool]
    images: str
    read: Callable[[Task, Path], TaskSplits]


def has_files(task: Task, folder: Path) -> bool:
    """Return whether the files of one of the forms are in ``folder``."""
    return any(form.has_files(folder) for form in _FORMS)


def read(task: Task, folder: Path) -> TaskSplits:
    """Read the two official splits, from the first form whose files and images exist."""
    forms = [form for form in _FORMS if form.has_files(folder)]
    with_images = [form for form in forms if find_subfolder(folder, form.images)]
    return (with_images or forms)[0].read(task, folder)


def _read_devkit(task: Task, folder: Path) -> TaskSplits:
    train = _file(folder, _TRAIN) or folder / _TRAIN
    test = MatFile(_file(folder, _LABELLED) or _file(folder, _TEST) or folder / _LABELLED)
    if not test.has("annotations", "class"):
        raise UsageError(
            f"{test.file}: has no labels of the test images; put {_LABELLED}, which the authors "
            "give apart from the devkit, beside it"
        )
    train_images, test_images = subfolder(folder, "cars_train"), subfolder(folder, "cars_test")
    return TaskSplits(
        train=_items(MatFile(train), "fname", train_images, task),
        val=None,
        test=_items(test, "fname", test_images, task),
        class_names=_class_names(task, folder) or tuple(map(str, range(1, task.num_classes + 1))),
        source=f"original files (devkit) in {folder}",
    )


def _read_both(task: Task, folder: Path) -> TaskSplits:
    subfolder(folder, "car_ims")  # the paths begin with it
    content = MatFile(_file(folder, _BOTH) or folder / _BOTH)
    items = _items(content, "relative_im_path", folder, task)
    is_test = content.integers("annotations", "test")
    if set(is_test) != {0, 1}:
        raise UsageError(
            f"{content.file}: annotations.test must be 1 for test images and 0 for others, but "
            f"it is {' and '.join(map(str, sorted(set(is_test))[:5]))}; get the authors' own file"
        )
    names = content.texts("class_names")
    require_classes(len(names), task, content.file, "class names")
    return TaskSplits(
        train=tuple(item for item, flag in zip(items, is_test, strict=True) if not flag),
        val=None,
        test=tuple(item for item, flag in zip(items, is_test, strict=True) if flag),
        class_names=tuple(names),
        source=f"original files ({_BOTH}) in {folder}",
    )


_FORMS = (
    _Form(
        lambda folder: (
            _file(folder, _TRAIN) is not None
            and (_file(folder, _LABELLED) is not None or _file(folder, _TEST) is not None)
        ),
        "cars_train",
        _read_devkit,
    ),
    _Form(lambda folder: _file(folder, _BOTH) is not None, "car_ims", _read_both),
    _Form(
        lambda folder: cars_csv.find_files(folder) is not None,
        ".",
        lambda task, folder: cars_csv.read(task, folder, _class_names(task, folder)),
    ),
)


def _items(content: MatFile, field: str, images: Path, task: Task) -> tuple[Item, ...]:
    names = content.texts("annotations", field)
    paths = [listed_path(images, name, str(content.file)) for name in names]
    labels = content.labels("annotations", "class", task.num_classes)
    require_images(paths, content.file)
    return tuple(Item(path, label) for path, label in zip(paths, labels, strict=True))


def _class_names(task: Task, folder: Path) -> tuple[str, ...]:
    """Return the names in ``cars_meta.mat``; none without that file."""
    file = _file(folder, _NAMES)
    if file is None:
        return ()
    names = MatFile(file).texts("class_names")
    require_classes(len(names), task, file, "class names")
    return tuple(names)


def _file(folder: Path, name: str) -> Path | None:
    """Return the file called ``name`` in ``folder`` or its devkit, or None."""
    return next((f for f in (folder / name, folder / "devkit" / name) if f.is_file()), None)

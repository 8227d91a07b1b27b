"""Stanford Cars in the three forms in which it is handed on.

``devkit``: annotations of train and of test in a file each, images in ``cars_train`` and
``cars_test``. ``cars_annos.mat``: one file for both, images in ``car_ims``. Two CSV files, see
``cars_csv.py``. The authors' site is gone, so none of them is to be had everywhere.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pcvpt.data.layouts.base import Reading
from pcvpt.data.layouts.original import cars_csv
from pcvpt.data.layouts.original.mat import MatFile
from pcvpt.data.readers.listed_images import find_subfolder, listed_path, require_images, subfolder
from pcvpt.data.splits import Item
from pcvpt.data.tasks.task import Task
from pcvpt.errors import UsageError

_TRAIN, _TEST, _LABELLED = (
    "cars_train_annos.mat",
    "cars_test_annos.mat",
    "cars_test_annos_withlabels.mat",
)
_BOTH, _META = "cars_annos.mat", "cars_meta.mat"
EXPECTED = (
    f"{_TRAIN} and {_LABELLED} (there or in devkit/) with the images in cars_train/ and "
    f"cars_test/; {_BOTH} with the images in car_ims/; or {cars_csv.EXPECTED}"
)


class _Form(NamedTuple):
    there: Callable[[Path], bool]
    images: str
    read: Callable[[Task, Path], Reading]


def there(task: Task, folder: Path) -> bool:
    """Return whether the files of one of the forms are in ``folder``."""
    return any(form.there(folder) for form in _FORMS)


def read(task: Task, folder: Path) -> Reading:
    """Read the two official splits, from the first form whose files and images are there.

    Raises:
        UsageError: as ``MatFile`` and ``cars_csv.read``, and for a test split without labels, an
            image outside its folder, and images that do not exist.
    """
    forms = [form for form in _FORMS if form.there(folder)]
    with_images = [form for form in forms if find_subfolder(folder, form.images)]
    return (with_images or forms)[0].read(task, folder)


def _read_devkit(task: Task, folder: Path) -> Reading:
    train = _file(folder, _TRAIN) or folder / _TRAIN
    test = _file(folder, _LABELLED) or _file(folder, _TEST) or folder / _LABELLED
    if not MatFile(test).has("annotations", "class"):
        raise UsageError(
            f"{test}: has no labels of the test images; put {_LABELLED}, which the authors give "
            "apart from the devkit, beside it"
        )
    train_images, test_images = subfolder(folder, "cars_train"), subfolder(folder, "cars_test")
    return Reading(
        train=_items(train, "fname", train_images, task),
        val=None,
        test=_items(test, "fname", test_images, task),
        class_names=_class_names(task, folder),
        source=f"original files (devkit) in {folder}",
    )


def _read_both(task: Task, folder: Path) -> Reading:
    file = _file(folder, _BOTH) or folder / _BOTH
    subfolder(folder, "car_ims")  # the paths begin with it
    items = _items(file, "relative_im_path", folder, task)
    content = MatFile(file)
    flags = content.integers("annotations", "test")
    if set(flags) != {0, 1}:
        raise UsageError(
            f"{file}: annotations.test must be 1 for the test images and 0 for the others, "
            f"but it is {' and '.join(map(str, sorted(set(flags))[:5]))}; get the authors' own file"
        )
    names = content.texts("class_names")
    return Reading(
        train=tuple(item for item, flag in zip(items, flags, strict=True) if not flag),
        val=None,
        test=tuple(item for item, flag in zip(items, flags, strict=True) if flag),
        class_names=_checked(names, task, file),
        source=f"original files ({_BOTH}) in {folder}",
    )


def _read_csv(task: Task, folder: Path) -> Reading:
    names = _class_names(task, folder) if _file(folder, _META) else ()
    return cars_csv.read(task, folder, names)


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
    _Form(cars_csv.there, ".", _read_csv),
)


def _items(file: Path, field: str, images: Path, task: Task) -> tuple[Item, ...]:
    content = MatFile(file)
    names = content.texts("annotations", field)
    paths = [listed_path(images, name, str(file)) for name in names]
    labels = content.labels("annotations", "class", task.num_classes)
    require_images(paths, file)
    return tuple(Item(path, label) for path, label in zip(paths, labels, strict=True))


def _class_names(task: Task, folder: Path) -> tuple[str, ...]:
    """Return the names in ``cars_meta.mat``, or numbers without that file."""
    file = _file(folder, _META)
    if file is None:
        return tuple(str(number) for number in range(1, task.num_classes + 1))
    return _checked(MatFile(file).texts("class_names"), task, file)


def _checked(names: list[str], task: Task, file: Path) -> tuple[str, ...]:
    if len(names) != task.num_classes:
        raise UsageError(
            f"{file}: {len(names)} class names, but {task.name} ({task.title}) has "
            f"{task.num_classes} classes; get the authors' own file"
        )
    return tuple(names)


def _file(folder: Path, name: str) -> Path | None:
    for file in folder / name, folder / "devkit" / name:
        if file.is_file():
            return file
    return None

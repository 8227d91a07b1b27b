"""Images in class folders: ``root/{train,val,test}/<class>/<image>``."""

import os
from pathlib import Path

from pcvpt.data.image_files import IMAGE_SUFFIXES, find_images, refuse_folder
from pcvpt.data.splits import Item, UndividedSplits
from pcvpt.errors import UsageError


def read_class_folders(root: Path) -> UndividedSplits:
    """Read ``root/{train,val,test}/<class>/<image>``; the classes are train's, sorted by name.

    The folders ``val`` and ``test`` may be absent.

    Raises:
        UsageError: If a folder is missing, empty or unreadable, if a class of train has no images,
            or if train lacks a class of val or test.
    """
    for folder in root, root / "train":
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; expected {root}/train/<class>/<image>")
    class_names = tuple(_class_folders(root / "train"))
    train = _read_split(root / "train", class_names)
    missing = set(range(len(class_names))) - {item.label for item in train}
    if missing:
        names = ", ".join(class_names[label] for label in sorted(missing))
        raise UsageError(
            f"{root / 'train'}: no images in class {names}; "
            f"add some ({' '.join(sorted(IMAGE_SUFFIXES))}) or remove the folder"
        )
    val = _read_split(root / "val", class_names) if (root / "val").exists() else None
    test = _read_split(root / "test", class_names) if (root / "test").exists() else ()
    return UndividedSplits(train, val, test, class_names)


def _read_split(folder: Path, class_names: tuple[str, ...]) -> tuple[Item, ...]:
    """Read one split; a class of train that is missing here keeps its label."""
    labels = {name: label for label, name in enumerate(class_names)}
    items = []
    for name in _class_folders(folder):
        if name not in labels:
            raise UsageError(
                f"{folder / name}: class {name!r} has no folder in train; "
                "add training images of it or remove it"
            )
        items += [Item(path, labels[name]) for path in find_images(folder / name)]
    if not items:
        raise UsageError(f"{folder}: no images; expected {folder}/<class>/<image>")
    return tuple(items)


def _class_folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    except OSError as error:
        refuse_folder(error)
    if not names:
        raise UsageError(f"{folder}: no class folders; expected {folder}/<class>/<image>")
    return sorted(names)

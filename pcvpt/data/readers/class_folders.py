"""Images in class folders: ``root/{train,val,test}/<class>/<image>``."""

from pathlib import Path

from pcvpt.data.image_files import PassedOver, find_images, names_in, printable, tell_passed_over
from pcvpt.data.splits import Item, TaskSplits
from pcvpt.errors import UsageError

_VAL = ("val", "valid", "validation")


def read_class_folders(root: Path) -> TaskSplits:
    """Read ``root/{train,val,test}/<class>/<image>``; the classes are train's, sorted by name.

    The folder ``val`` may be called ``valid`` or ``validation``; it and ``test`` may be absent. A
    note tells which files were passed over.

    Raises:
        UsageError: If a folder is missing, empty or unreadable, if val has several folders, if a
            class of train has no images, or if train lacks a class of val or test.
    """
    if root.name in ("train", *_VAL, "test") and not (root / "train").exists():
        raise UsageError(f"{root} holds one split; give the folder above it, {root.parent}")
    labels = {name: label for label, name in enumerate(_classes_in(root / "train"))}
    validation = [root / name for name in _VAL if (root / name).exists()]
    if len(validation) > 1:
        raise UsageError(
            f"{root}: has the folders {' and '.join(path.name for path in validation)}; keep one "
            "for the validation images"
        )
    passed_over = PassedOver()
    train = _read_split(root / "train", labels, passed_over)
    present = {item.label for item in train}
    missing = [printable(name) for name, label in labels.items() if label not in present]
    if missing:
        note = tell_passed_over(root / "train", passed_over)
        raise UsageError(
            f"{root / 'train'}: no images in class {', '.join(missing)}; add some or remove the "
            f"folder{note and f' ({note})'}"
        )
    val = _read_split(validation[0], labels, passed_over) if validation else None
    test = _read_split(root / "test", labels, passed_over) if (root / "test").exists() else ()
    note = tell_passed_over(root, passed_over)
    names = tuple(map(printable, labels))
    return TaskSplits(train, val, test, names, f"class folders in {root}", (note,) if note else ())


def _read_split(folder: Path, labels: dict[str, int], passed_over: PassedOver) -> tuple[Item, ...]:
    """Read one split; a class of train that is missing here keeps its label."""
    for name in _classes_in(folder):
        if name not in labels:
            raise UsageError(
                f"{folder / name}: class {name!r} has no folder in train; "
                "add training images of it or remove it"
            )
    items = []
    for path in find_images(folder, passed_over):
        if path.parent == folder:
            passed_over["in no class folder", path.suffix] += 1
        else:
            items.append(Item(path, labels[path.relative_to(folder).parts[0]]))
    if not items:
        raise UsageError(f"{folder}: no images; expected {folder}/<class>/<image>")
    return tuple(sorted(items, key=lambda item: item.label))


def _classes_in(folder: Path) -> list[str]:
    return names_in(folder, remedy=f"expected {folder}/<class>/<image>")

"""The five FGVC tasks in miniature, in the VPT release's JSON layout and as the authors give them.

Each function writes a data set into ``folder`` and returns what a reader must find there: every
class has ``per_class`` training images and two test images, of noise, no two alike. Images of the
classes alternate, so that a reader that sorts or counts instead of reading labels is caught.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from miniature.images import write_noise

TEST_PER_CLASS = 2
SPECIES = ("Black_footed_Albatross", "Laysan_Albatross", "Sooty_Albatross", "Groove_billed_Ani")
BIRDS = ("Oak Titmouse", "Brant (Adult)", "Snow Goose", "American Wigeon (Female/Eclipse)")
DOGS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02086240-Shih-Tzu", "n02087394-Rr")
CARS = (
    "AM General Hummer SUV 2000",
    "Acura RL Sedan 2012",
    "Ram C/V Van 2012",
    "smart fortwo 2012",
)


class Written(NamedTuple):
    """What a reader must find: labels by image, and the names of the classes."""

    train: dict[Path, int]
    val: dict[Path, int] | None
    test: dict[Path, int]
    class_names: tuple[str, ...]


def _save(file: Path, content: dict[str, Any]) -> None:
    savemat(file, content, do_compression=True)  # as MATLAB does


def write_json(
    folder: Path,
    task: str,
    classes: int = 3,
    per_class: int = 4,
    val: bool = True,
) -> Written:
    """Write JSON splits; ids are 1-based, sparse (NABirds), 0-based (Dogs) or digits (Cars)."""
    images = {"cub": "images", "nabirds": "images", "dogs": "Images"}.get(task, "")
    ids = {"nabirds": _sparse(classes), "dogs": range(classes)}.get(task, range(1, classes + 1))
    names = {
        "cub": _cub_names(classes),
        "nabirds": [f"{class_id:04}" for class_id in ids],
        "dogs": _names(DOGS, classes),
    }.get(task, [str(class_id) for class_id in ids])
    counts = {"train": per_class, "val": int(val), "test": TEST_PER_CLASS}
    written: dict[str, dict[Path, int]] = {}
    number = 0
    for split, count in counts.items():
        content: dict[str, int | str] = {}
        written[split] = {}
        for label in list(range(classes)) * count:
            number += 1
            name = {
                "flowers": f"jpg/image_{number:05}.jpg",
                "cars": f"cars_{'test' if split == 'test' else 'train'}/{number:05}.jpg",
            }.get(task, f"{names[label]}/image {number}.jpg")
            write_noise(folder / images / name, number)
            content[name] = str(ids[label]) if task == "cars" else ids[label]
            written[split][folder / images / name] = label
        if content:
            (folder / f"{split}.json").write_text(json.dumps(content))
    return Written(written["train"], written["val"] or None, written["test"], tuple(names))


def write_cub(folder: Path, classes: int = 3, per_class: int = 4) -> Written:
    ids, names = range(1, classes + 1), _cub_names(classes)
    (folder / "attributes").mkdir(parents=True)
    return _write_birds(folder, per_class, ids, dict(zip(ids, names, strict=True)), names, "{}")


def _cub_names(classes: int) -> list[str]:
    return [f"{label + 1:03}.{name}" for label, name in enumerate(_names(SPECIES, classes))]


def write_nabirds(folder: Path, classes: int = 3, per_class: int = 4) -> Written:
    """Class ids are sparse, and ``classes.txt`` also names groups that have no images."""
    ids = _sparse(classes)
    names = {0: "Birds", 1: "Ducks, Geese, and Swans"} | dict(
        zip(ids, _names(BIRDS, classes), strict=True)
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hierarchy.txt").write_text("".join(f"{class_id} 0\n" for class_id in ids))
    folders = [f"{class_id:04}" for class_id in ids]
    return _write_birds(folder, per_class, ids, names, folders, "0000139e-21dc-4d0c-bfe1-{:012}")


def _write_birds(
    folder: Path,
    per_class: int,
    ids: Sequence[int],
    names: dict[int, str],
    folders: Sequence[str],
    key: str,
) -> Written:
    written = Written({}, None, {}, tuple(names[class_id] for class_id in ids))
    texts: dict[str, list[str]] = {"images": [], "train_test_split": [], "image_class_labels": []}
    labels = list(range(len(ids))) * (TEST_PER_CLASS + per_class)
    for number, label in enumerate(labels, start=1):
        path = folder / "images" / folders[label] / f"{number}.jpg"
        train = number > len(ids) * TEST_PER_CLASS
        write_noise(path, number)
        (written.train if train else written.test)[path] = label
        texts["images"].append(f"{key.format(number)} {folders[label]}/{number}.jpg")
        texts["train_test_split"].append(f"{key.format(number)} {int(train)}")
        texts["image_class_labels"].append(f"{key.format(number)} {ids[label]}")
    texts["classes"] = [f"{class_id} {name}" for class_id, name in names.items()]
    for file, lines in texts.items():
        (folder / f"{file}.txt").write_text("".join(f"{line}\n" for line in lines))
    return written


def write_flowers(folder: Path, classes: int = 3, per_class: int = 4) -> Written:
    """Write three official splits; val is as large as train, as in the real ones."""
    labels = list(range(classes))[::-1] * (TEST_PER_CLASS + 2 * per_class)
    for number in range(1, len(labels) + 1):
        write_noise(folder / "jpg" / f"image_{number:05}.jpg", number)
    test, train, val = np.split(
        np.arange(1, len(labels) + 1, dtype=np.uint16),
        [classes * TEST_PER_CLASS, classes * (TEST_PER_CLASS + per_class)],
    )
    _save(folder / "setid.mat", {"trnid": train[None], "valid": val[None], "tstid": test[None]})
    _save(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8) + np.uint8(1)})
    splits = [
        {folder / "jpg" / f"image_{number:05}.jpg": labels[number - 1] for number in split}
        for split in (train, val, test)
    ]
    names = tuple(str(label + 1) for label in range(classes))
    return Written(splits[0], splits[1], splits[2], names)


def write_dogs(folder: Path, classes: int = 3, per_class: int = 4, lists: str = "") -> Written:
    """Write the two lists, into the folder ``lists`` below ``folder`` if it is named."""
    folders = _names(DOGS, classes)
    written = Written({}, None, {}, tuple(folders))
    (folder / lists).mkdir(parents=True, exist_ok=True)
    number = 0
    for split, count in ("train", per_class), ("test", TEST_PER_CLASS):
        names, labels = [], list(range(classes)) * count
        for label in labels:
            number += 1
            names.append(f"{folders[label]}/{folders[label][:9]}_{number}")
            path = folder / "Images" / f"{names[-1]}.jpg"
            write_noise(path, number)
            (written.train if split == "train" else written.test)[path] = label
        _save(
            folder / lists / f"{split}_list.mat",
            {
                "file_list": _cells([f"{name}.jpg" for name in names])[:, None],
                "annotation_list": _cells(names)[:, None],
                "labels": np.array([labels], dtype=np.float64).T + 1,
            },
        )
    return written


def write_cars_devkit(
    folder: Path,
    classes: int = 3,
    per_class: int = 4,
    devkit: str = "devkit",
    labelled: bool = True,
) -> Written:
    """Write the devkit; as torchvision has it, the labelled test file is not in its folder."""
    written = _cars(folder, classes, per_class, "{split}/{number:05}.jpg")
    (folder / devkit).mkdir(exist_ok=True)
    _save(folder / devkit / "cars_meta.mat", {"class_names": _cells(_names(CARS, classes))[None]})
    train = [(*_box(), label + 1, path.name) for path, label in written.train.items()]
    test = [(*_box(), label + 1, path.name) for path, label in written.test.items()]
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    _save_annotations(folder / devkit / "cars_train_annos.mat", fields, train)
    _save_annotations(
        folder / devkit / "cars_test_annos.mat",
        (*fields[:4], "fname"),
        [(*row[:4], row[5]) for row in test],
    )
    if labelled:
        _save_annotations(folder / "cars_test_annos_withlabels.mat", fields, test)
    return written


def write_cars_annos(folder: Path, classes: int = 3, per_class: int = 4) -> Written:
    """Write ``cars_annos.mat``, one file for both splits."""
    written = _cars(folder, classes, per_class, "car_ims/{split}{number:05}.jpg")
    rows = [
        (f"car_ims/{path.name}", *_box(), label + 1, int(path in written.test))
        for path, label in (written.test | written.train).items()
    ]
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    names = {"class_names": _cells(_names(CARS, classes))[None]}
    _save_annotations(folder / "cars_annos.mat", fields, rows, names)
    return written


def write_cars_csv(
    folder: Path,
    classes: int = 3,
    per_class: int = 4,
    files: tuple[str, str] = ("train.csv", "test.csv"),
    columns: tuple[str, str] = ("image", "Class"),
    first_id: int = 1,
    images: str = "{split}/{number:05}.jpg",
    prefix: str = "",
) -> Written:
    """Write two CSV files; ``prefix`` goes before the names of the images in them."""
    written = _cars(folder, classes, per_class, images)
    for file, labels in zip(files, (written.train, written.test), strict=True):
        lines = [f",{columns[0]},x1,{columns[1]}"]
        lines += [
            f"{row},{prefix}{path.name},39,{label + first_id}"
            for row, (path, label) in enumerate(labels.items())
        ]
        (folder / file).write_text("\n".join(lines) + "\n")
    names = tuple(str(label + first_id) for label in range(classes))
    return written._replace(class_names=names)


def _cars(folder: Path, classes: int, per_class: int, images: str) -> Written:
    """Write the images, which have the same names in train and test."""
    written = Written({}, None, {}, tuple(_names(CARS, classes)))
    for split, count, labels in (
        ("cars_train", per_class, written.train),
        ("cars_test", TEST_PER_CLASS, written.test),
    ):
        for number, label in enumerate(list(range(classes)) * count, start=1):
            path = folder / images.format(split=split, number=number)
            write_noise(path, number + 1000 * (split == "cars_test"))
            labels[path] = label
    return written


def _sparse(classes: int) -> range:
    return range(295, 295 + 3 * classes, 3)


def _names(some: Sequence[str], classes: int) -> list[str]:
    return [some[label] if label < len(some) else f"{some[0]}{label}" for label in range(classes)]


def _box() -> tuple[int, int, int, int]:
    return 39, 116, 569, 375


def _cells(texts: Sequence[str]) -> NDArray[np.object_]:
    cells = np.empty(len(texts), dtype=object)
    cells[:] = texts
    return cells


def _save_annotations(
    file: Path,
    fields: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    others: dict[str, Any] | None = None,
) -> None:
    annotations = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for column, row in enumerate(rows):
        annotations[0, column] = row
    _save(file, {"annotations": annotations, **(others or {})})

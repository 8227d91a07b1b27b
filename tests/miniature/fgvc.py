"""The five FGVC tasks in miniature, in the VPT release's JSON layout and as the authors give them.

Each function writes a data set into ``folder`` and returns what a reader must find there: every
class has ``per_class`` training images and two test images, of noise, no two alike. Images of the
classes alternate, so that a reader that sorts or counts instead of reading labels is caught.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.io import savemat

from miniature.images import write_noise
from pcvpt.data.tasks.table import TASKS

SMALL = {name: replace(task, num_classes=3) for name, task in TASKS.items() if task.suite == "fgvc"}
"""Rows of the five tasks, made to the size of what the writers write."""

SPECIES = ("Black_footed_Albatross", "Laysan_Albatross", "Sooty_Albatross", "Groove_billed_Ani")
BIRDS = ("Oak Titmouse", "Brant (Adult)", "Snow Goose", "American Wigeon (Female/Eclipse)")
DOGS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02086240-Shih-Tzu", "n02087394-Rr")
CARS = (
    *("AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
    *("Ram C/V Van 2012", "smart fortwo 2012"),
)
BOX = {"bbox_x1": 39, "bbox_y1": 116, "bbox_x2": 569, "bbox_y2": 375}


class Written(NamedTuple):
    """What a reader must find: labels by image, and the names of the classes."""

    train: dict[Path, int]
    val: dict[Path, int] | None
    test: dict[Path, int]
    class_names: tuple[str, ...]


def _write_images(
    counts: dict[str, int], names: Sequence[str], path: Callable[[str, int, int], Path]
) -> Written:
    """Write images of each split; ``path`` gets the split, the label and a running number."""
    written: dict[str, dict[Path, int]] = {"val": {}}
    number = 0
    for split, count in counts.items():
        written[split] = {}
        for label in list(range(len(names))) * count:
            number += 1
            image = path(split, label, number)
            write_noise(image, number)
            written[split][image] = label
    return Written(written["train"], written["val"] or None, written["test"], tuple(names))


def write_json(
    folder: Path, task: str, classes: int = 3, per_class: int = 4, val: bool = True
) -> Written:
    """Write JSON splits; ids are 1-based, sparse (NABirds), 0-based (Dogs) or digits (Cars)."""
    images = folder / {"cub": "images", "nabirds": "images", "dogs": "Images"}.get(task, "")
    ids = {"nabirds": _sparse(classes), "dogs": range(classes)}.get(task, range(1, classes + 1))
    names = {
        "cub": _cub_names(classes),
        "nabirds": [f"{class_id:04}" for class_id in ids],
        "dogs": _names(DOGS, classes),
    }.get(task, [str(class_id) for class_id in ids])
    place = {"flowers": "jpg/image_{2:05}.jpg", "cars": "cars_{0}/{2:05}.jpg"}
    name = place.get(task, "{1}/image {2}.jpg")
    written = _write_images(
        {"train": per_class, "val": int(val), "test": 2},
        names,
        lambda split, label, number: images / name.format(split, names[label], number),
    )
    for split in "train", "val", "test":
        if labels := getattr(written, split):
            content = {
                path.relative_to(images).as_posix(): str(ids[n]) if task == "cars" else ids[n]
                for path, n in labels.items()
            }
            (folder / f"{split}.json").write_text(json.dumps(content))
    return written


def write_cub(folder: Path, classes: int = 3, per_class: int = 4) -> Written:
    (folder / "attributes").mkdir(parents=True)
    names = _cub_names(classes)
    return _write_birds(folder, per_class, dict(enumerate(names, start=1)), names, "{}")


def write_nabirds(folder: Path, classes: int = 3, per_class: int = 4) -> Written:
    """Class ids are sparse, and ``classes.txt`` also names groups that have no images."""
    ids = _sparse(classes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hierarchy.txt").write_text("".join(f"{class_id} 0\n" for class_id in ids))
    names = dict(zip(ids, _names(BIRDS, classes), strict=True))
    folders = [f"{class_id:04}" for class_id in ids]
    written = _write_birds(folder, per_class, names, folders, "0000139e-21dc-4d0c-bfe1-{:012}")
    with (folder / "classes.txt").open("a") as file:
        file.write("0 Birds\n1 Ducks, Geese, and Swans\n")
    return written


def _write_birds(
    folder: Path, per_class: int, names: dict[int, str], folders: Sequence[str], key: str
) -> Written:
    written = _write_images(
        {"test": 2, "train": per_class},
        list(names.values()),
        lambda _, label, number: folder / "images" / folders[label] / f"{number}.jpg",
    )
    files: dict[str, list[str]] = {"images": [], "train_test_split": [], "image_class_labels": []}
    for path, label in (written.test | written.train).items():
        image = key.format(int(path.stem))
        files["images"].append(f"{image} {folders[label]}/{path.name}")
        files["train_test_split"].append(f"{image} {int(path in written.train)}")
        files["image_class_labels"].append(f"{image} {list(names)[label]}")
    files["classes"] = [f"{class_id} {name}" for class_id, name in names.items()]
    for file, lines in files.items():
        (folder / f"{file}.txt").write_text("\n".join(lines) + "\n")
    return written


def write_flowers(folder: Path, classes: int = 3, per_class: int = 4) -> Written:
    """Write three official splits; val is as large as train, as in the real ones."""
    written = _write_images(
        {"test": 2, "train": per_class, "val": per_class},
        [str(label + 1) for label in range(classes)],
        lambda _, label, number: folder / "jpg" / f"image_{number:05}.jpg",
    )
    labels = [*written.test.values(), *written.train.values(), *(written.val or {}).values()]
    numbers = np.arange(1, len(labels) + 1, dtype=np.uint16)
    test, train, val = np.split(numbers, [classes * 2, classes * (2 + per_class)])
    _save(folder / "setid.mat", {"trnid": train[None], "valid": val[None], "tstid": test[None]})
    _save(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8) + np.uint8(1)})
    return written


def write_dogs(folder: Path, classes: int = 3, per_class: int = 4, lists: str = "") -> Written:
    """Write the two lists, into the folder ``lists`` below ``folder`` if it is named."""
    names = _names(DOGS, classes)
    images = folder / "Images"
    written = _write_images(
        {"train": per_class, "test": 2},
        names,
        lambda _, label, number: images / names[label] / f"{names[label][:9]}_{number}.jpg",
    )
    (folder / lists).mkdir(exist_ok=True)
    for split, labels in (("train", written.train), ("test", written.test)):
        files = [path.relative_to(images) for path in labels]
        content = {
            "file_list": _cells(path.as_posix() for path in files)[:, None],
            "annotation_list": _cells(path.with_suffix("").as_posix() for path in files)[:, None],
            "labels": np.array([list(labels.values())], dtype=np.float64).T + 1,
        }
        _save(folder / lists / f"{split}_list.mat", content)
    return written


def write_cars_devkit(
    folder: Path,
    classes: int = 3,
    per_class: int = 4,
    devkit: str = "devkit",
    labelled: bool = True,
) -> Written:
    """Write the devkit; as torchvision has it, the labelled test file is not in its folder."""
    written = _cars(folder, classes, per_class, "cars_{split}/{number:05}.jpg")
    (folder / devkit).mkdir(exist_ok=True)
    _save(folder / devkit / "cars_meta.mat", {"class_names": _cells(written.class_names)[None]})
    train, test = (
        [{**BOX, "class": label + 1, "fname": path.name} for path, label in labels.items()]
        for labels in (written.train, written.test)
    )
    unlabelled = [{key: each[key] for key in (*BOX, "fname")} for each in test]
    _save(folder / devkit / "cars_train_annos.mat", {"annotations": _structs(train)})
    _save(folder / devkit / "cars_test_annos.mat", {"annotations": _structs(unlabelled)})
    if labelled:
        _save(folder / "cars_test_annos_withlabels.mat", {"annotations": _structs(test)})
    return written


def write_cars_annos(folder: Path, classes: int = 3, per_class: int = 4) -> Written:
    """Write ``cars_annos.mat``, one file for both splits."""
    written = _cars(folder, classes, per_class, "car_ims/{split}{number:05}.jpg")
    rows = [
        {
            "relative_im_path": f"car_ims/{path.name}",
            **BOX,
            "class": label + 1,
            "test": int(path in written.test),
        }
        for path, label in (written.test | written.train).items()
    ]
    names = _cells(written.class_names)[None]
    _save(folder / "cars_annos.mat", {"annotations": _structs(rows), "class_names": names})
    return written


def write_cars_csv(
    folder: Path,
    classes: int = 3,
    per_class: int = 4,
    files: tuple[str, str] = ("train.csv", "test.csv"),
    columns: tuple[str, str] = ("image", "Class"),
    first_id: int = 1,
    images: str = "cars_{split}/{number:05}.jpg",
    prefix: str = "",
) -> Written:
    """Write two CSV files; ``prefix`` goes before the names of the images in them."""
    written = _cars(folder, classes, per_class, images)
    for file, labels in zip(files, (written.train, written.test), strict=True):
        lines = [f",{columns[0]},x1,{columns[1]}"]
        for row, (path, label) in enumerate(labels.items()):
            lines.append(f"{row},{prefix}{path.name},39,{label + first_id}")
        (folder / file).write_text("\n".join(lines) + "\n")
    return written._replace(class_names=tuple(str(n + first_id) for n in range(classes)))


def _cars(folder: Path, classes: int, per_class: int, images: str) -> Written:
    """Write the images, which have the same names in train and test."""
    start = {"train": 0, "test": classes * per_class}
    return _write_images(
        {"train": per_class, "test": 2},
        _names(CARS, classes),
        lambda split, _, number: folder / images.format(split=split, number=number - start[split]),
    )


def _sparse(classes: int) -> range:
    return range(295, 295 + 3 * classes, 3)


def _names(some: Sequence[str], classes: int) -> list[str]:
    return [some[label] if label < len(some) else f"{some[0]}{label}" for label in range(classes)]


def _cub_names(classes: int) -> list[str]:
    return [f"{label + 1:03}.{name}" for label, name in enumerate(_names(SPECIES, classes))]


def _save(file: Path, content: dict[str, Any]) -> None:
    savemat(file, content, do_compression=True)  # as MATLAB does


def _cells(values: Iterable[object]) -> Any:
    return np.fromiter(values, dtype=object)


def _structs(rows: Sequence[dict[str, object]]) -> Any:
    """Return a struct array, (1, n), of MATLAB."""
    dtype = [(field, object) for field in rows[0]]
    return np.array([[tuple(row.values()) for row in rows]], dtype=dtype)

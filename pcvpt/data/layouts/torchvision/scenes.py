"""Sets whose classes are made from annotated objects: CLEVR and KITTI."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pcvpt.data.layouts.torchvision.splits import (
    Raw,
    RawSplit,
    existing,
    names_in,
    read_lines,
    read_text,
    split_of_items,
)
from pcvpt.data.splits import Item
from pcvpt.data.tasks import label_rules
from pcvpt.errors import UsageError

_KITTI_TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
_KITTI_FIELDS = 15
_KITTI_Z = 13  # column of the distance to the camera
_KITTI_SEED = 123
_DEVKIT = "https://s3.eu-central-1.amazonaws.com/avg-kitti/devkit_object.zip"


def clevr(folder: Path, num_classes: int, task: str) -> Raw:
    """Read ``images/{train,val}`` and ``scenes/CLEVR_{train,val}_scenes.json``."""

    def split(part: str) -> RawSplit:
        file = folder / "scenes" / f"CLEVR_{part}_scenes.json"
        images = folder / "images" / part
        names = names_in(images, ".png")
        scenes = _scenes(file)

        def item(position: int) -> Item:
            name = names[position]
            if name not in scenes:
                raise UsageError(f"{file}: no scene for {images / name}; get the data set anew")
            try:
                depths = [float(each["pixel_coords"][2]) for each in scenes[name]]
                label = (
                    label_rules.clevr_count(len(depths))
                    if task == "clevr_count"
                    else label_rules.clevr_dist(depths)
                )
            except (ValueError, TypeError, KeyError, IndexError) as error:
                raise UsageError(
                    f"{file}: the scene of {name} is damaged ({error}); get the data set anew"
                ) from error
            if label >= num_classes:
                raise UsageError(f"{file}: {name} has label {label}, not in 0..{num_classes - 1}")
            return Item(images / name, label)

        return split_of_items(names, item)

    return Raw({"train": split("train"), "validation": split("val")})


def kitti(folder: Path, num_classes: int) -> Raw:
    """Read ``image_2`` and ``label_2`` of ``training``, divided by TFDS's draw of videos.

    Which video an image is from stands in the development kit.
    """
    videos: dict[str, list[int]] = defaultdict(list)
    for image, video in enumerate(_videos(_mapping(folder))):
        videos[video].append(image)
    count = max(1, 10 * len(videos) // 100)
    if len(videos) < 2 * count + 1:
        raise UsageError(f"{_mapping(folder)}: {len(videos)} videos cannot be divided; get it anew")
    draw = np.random.RandomState(_KITTI_SEED)
    test = set(draw.choice(sorted(videos), count, replace=False).tolist())
    validation = set(draw.choice(sorted(set(videos) - test), count, replace=False).tolist())
    parts = {"train": set(videos) - test - validation, "validation": validation, "test": test}

    def split(chosen: set[str]) -> RawSplit:
        numbers = [image for video in chosen for image in videos[video]]

        def item(position: int) -> Item:
            number = numbers[position]
            labels = folder / "label_2" / f"{number:06d}.txt"
            image = existing(folder / "image_2" / f"{number:06d}.png", str(_mapping(folder)))
            label = _kitti_label(labels)
            if label >= num_classes:
                raise UsageError(f"{labels}: label {label} is not in 0..{num_classes - 1}")
            return Item(image, label)

        return split_of_items([f"{number:06d}.png" for number in numbers], item)

    return Raw({name: split(chosen) for name, chosen in parts.items()})


def _scenes(file: Path) -> dict[str, list[Any]]:
    """Return the objects of each scene by the name of its image."""
    try:
        scenes = json.loads(read_text(file))["scenes"]
        return {scene["image_filename"]: scene["objects"] for scene in scenes}
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{file}: no scenes of CLEVR ({type(error).__name__}: {error}); get the data set anew"
        ) from error


def _kitti_label(file: Path) -> int:
    types, depths = [], []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0] == "DontCare":
            continue
        try:
            if len(fields) != _KITTI_FIELDS:
                raise ValueError(f"{len(fields)} fields, not {_KITTI_FIELDS}")
            if fields[0] not in _KITTI_TYPES:
                raise ValueError(f"{fields[0]!r} is no type of object")
            types.append(_KITTI_TYPES.index(fields[0]))
            depths.append(float(fields[_KITTI_Z]))
        except ValueError as error:
            raise UsageError(f"{file}:{number}: {error}; get the data set anew") from error
    try:
        return label_rules.kitti_dist(types, depths)
    except ValueError as error:
        raise UsageError(f"{file}: {error}; get the data set anew") from error


def _mapping(folder: Path) -> Path:
    """Return the folder ``mapping`` of the development kit, beside or above ``training``."""
    above = (folder.parent, folder.parent.parent)  # torchvision: Kitti/raw/training
    for parent in above:
        for name in "devkit/mapping", "devkit_object/mapping", "mapping":
            if (parent / name / "train_mapping.txt").is_file():
                return parent / name
    raise UsageError(
        f"{folder}: the splits of KITTI need its development kit; unpack {_DEVKIT} into "
        f"{above[0] / 'devkit'}, so that there is {above[0] / 'devkit/mapping/train_mapping.txt'}"
    )


def _videos(mapping: Path) -> list[str]:
    """Return the video of each image: the line of ``train_mapping.txt`` that the image is from."""
    lines = read_lines(mapping / "train_mapping.txt")
    file = mapping / "train_rand.txt"
    videos = []
    for number in read_text(file).split(","):
        line = int(number) - 1 if number.strip().isdecimal() else -1
        fields = lines[line].split(" ") if 0 <= line < len(lines) else []
        if len(fields) < 2:
            raise UsageError(
                f"{file}: {number.strip()!r} is no line of train_mapping.txt; get the kit anew"
            )
        videos.append(fields[1])
    return videos

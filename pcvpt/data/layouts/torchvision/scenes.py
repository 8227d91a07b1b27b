"""Data sets whose classes are made from annotated objects: CLEVR and KITTI."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from pcvpt.data.image_files import named_errors, names_in
from pcvpt.data.layouts.torchvision.source import SourceData, SourceSplit, one_by_one
from pcvpt.data.readers.listed_images import read_lines, read_text
from pcvpt.data.splits import Item
from pcvpt.data.tasks.label_rules import clevr_count, clevr_dist, kitti_dist
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError

_KITTI_TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
_KITTI_FIELDS = 15
_KITTI_Z = 13  # column of the distance to the camera
_KITTI_SEED = 123
_DEVKIT = "https://s3.eu-central-1.amazonaws.com/avg-kitti/devkit_object.zip"


def clevr(folder: Path, task: Task) -> SourceData:
    """Read ``images/{train,val}`` and ``scenes/CLEVR_{train,val}_scenes.json``."""

    def split(part: str) -> SourceSplit:
        file = folder / "scenes" / f"CLEVR_{part}_scenes.json"
        images = folder / "images" / part
        names = names_in(images, ".png")
        with named_errors(file):
            read = json.loads(read_text(file))["scenes"]
            scenes = {scene["image_filename"]: scene["objects"] for scene in read}

        def item(position: int) -> Item:
            name = names[position]
            try:
                depths = [float(each["pixel_coords"][2]) for each in scenes[name]]
                counted = task.name == "clevr_count"
                label = clevr_count(len(depths)) if counted else clevr_dist(depths)
            except (ValueError, TypeError, LookupError) as error:
                raise UsageError(
                    f"{file}: the scene of {images / name} is missing or damaged ({error}); get "
                    "the data set again"
                ) from error
            return Item(images / name, label)

        return one_by_one(file, names, item)

    return SourceData({"train": split("train"), "validation": split("val")})


def kitti(folder: Path, task: Task) -> SourceData:
    """Read ``image_2`` and ``label_2`` of ``training``, divided by TFDS's draw of videos.

    The development kit states which video an image is from.
    """
    mapping = _find_mapping(folder)
    images_of: dict[str, list[int]] = defaultdict(list)
    for image, video in enumerate(_read_videos(mapping)):
        images_of[video].append(image)
    count = max(1, 10 * len(images_of) // 100)
    if len(images_of) < 2 * count + 1:
        raise UsageError(f"{mapping}: {len(images_of)} videos cannot be divided; get it again")
    draw = np.random.RandomState(_KITTI_SEED)
    test = set(draw.choice(sorted(images_of), count, replace=False).tolist())
    validation = set(draw.choice(sorted(set(images_of) - test), count, replace=False).tolist())
    parts = {"train": set(images_of) - test - validation, "validation": validation, "test": test}

    def split(videos: set[str]) -> SourceSplit:
        names = [f"{image:06d}" for video in videos for image in images_of[video]]

        def item(position: int) -> Item:
            name = names[position]
            label = _read_kitti_label(folder / "label_2" / f"{name}.txt")
            return Item(folder / "image_2" / f"{name}.png", label)

        return one_by_one(mapping, [f"{name}.png" for name in names], item)

    return SourceData({name: split(videos) for name, videos in parts.items()})


def _read_kitti_label(file: Path) -> int:
    types, depths = [], []
    try:
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            fields = line.split()
            if not fields or fields[0] == "DontCare":
                continue
            if len(fields) != _KITTI_FIELDS or fields[0] not in _KITTI_TYPES:
                raise ValueError(f"line {number} is not a known type of object and 14 numbers")
            types.append(_KITTI_TYPES.index(fields[0]))
            depths.append(float(fields[_KITTI_Z]))
        return kitti_dist(types, depths)
    except ValueError as error:
        raise UsageError(f"{file}: {error}; get the data set again") from error


def _find_mapping(folder: Path) -> Path:
    """Return the folder ``mapping`` of the development kit, beside or above ``training``."""
    for parent in (folder.parent, folder.parent.parent):  # torchvision: Kitti/raw/training
        for name in "devkit/mapping", "devkit_object/mapping", "mapping":
            if (parent / name / "train_mapping.txt").is_file():
                return parent / name
    raise UsageError(
        f"{folder}: the splits of KITTI need its development kit; unpack {_DEVKIT} so that "
        f"{folder.parent / 'devkit/mapping/train_mapping.txt'} exists"
    )


def _read_videos(mapping: Path) -> list[str]:
    """Return the video of each image, from the line of ``train_mapping.txt`` it is from."""
    lines = read_lines(mapping / "train_mapping.txt")
    file = mapping / "train_rand.txt"
    videos = []
    for number in read_text(file).split(","):
        line = int(number) - 1 if number.strip().isdecimal() else -1
        fields = lines[line].split(" ") if 0 <= line < len(lines) else []
        if len(fields) < 2:
            raise UsageError(
                f"{file}: {number.strip()!r} is not a line of train_mapping.txt; get the kit again"
            )
        videos.append(fields[1])
    return videos

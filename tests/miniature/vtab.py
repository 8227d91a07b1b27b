"""VTAB's sets in miniature, as their authors publish them.

A writer ``write_<task>(folder)`` fills the task's own folder with noise, no two images alike. Names
are those of the real sets, but neither their number nor their order is; labels follow no pattern.
``prepare.py`` has TFDS's own builders prepare what they have written.
"""

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import savemat

from miniature.images import write_noise
from pcvpt.data.tasks.table import Task

TRAIN, VAL, TEST = 20, 6, 8
SHAPE = (12, 12, 3)  # of an image
EUROSAT = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"]
EUROSAT += ["Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]
NORB = "smallnorb-5x{}x9x18x6x2x96x96-{}-{}.mat"
CUBE: dict[str, Any] = {"color": "red", "material": "metal", "shape": "cube", "size": "small"}
CUBE |= {"rotation": 1.0, "3d_coords": [0.0, 1.0, 2.0]}
KITTI_VIDEOS = 12
KITTI_TYPES = ["Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Tram", "Misc", "DontCare"]


def write_cifar100(folder: Path) -> None:
    """Write ``cifar-100-python`` and the binary edition, from which TFDS reads."""
    draw = np.random.default_rng(0)
    python, binary = folder / "cifar-100-python", folder / "cifar-100-binary"
    python.mkdir(parents=True)
    binary.mkdir()
    names = [f"class {number}" for number in range(100)]
    _pickle_as_python_2(python / "meta", {"fine_label_names": names})
    (binary / "fine_label_names.txt").write_text("\n".join(names) + "\n\n")
    (binary / "coarse_label_names.txt").write_text("\n".join(f"group {n}" for n in range(20)))
    for part, count in ("train", TRAIN), ("test", TEST):
        pixels = draw.integers(0, 256, (count, 3072), np.uint8)
        fine, coarse = draw.integers(0, 100, count), draw.integers(0, 20, count)
        held = {"data": pixels, "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist()}
        _pickle_as_python_2(python / part, held)
        rows = np.column_stack([coarse, fine, pixels]).astype(np.uint8)
        (binary / f"{part}.bin").write_bytes(rows.tobytes())


def write_svhn(folder: Path) -> None:
    draw = np.random.default_rng(1)
    folder.mkdir(parents=True)
    for part, count in ("train", TRAIN), ("test", TEST), ("extra", 3):
        pixels = draw.integers(0, 256, (32, 32, 3, count), np.uint8)
        labels = draw.permutation(np.arange(count) % 10 + 1).astype(np.uint8)
        savemat(folder / f"{part}_32x32.mat", {"X": pixels, "y": labels[:, None]})


def write_dtd(folder: Path) -> None:
    """Write ``dtd/{images,labels}`` with an image of each split for each of the 47 classes."""
    import tensorflow_datasets as tfds

    inner, seed = folder / "dtd", 0
    names = tfds.core.tfds_path("image_classification/dtd_key_attributes.txt").read_text().split()
    for part in "test", "train", "val":
        lines = []
        for name in reversed(names):
            seed += 1
            lines.append(f"{name}/{name}_{seed:04}.jpg")
            write_noise(inner / "images" / lines[-1], seed, SHAPE)
        _write(inner / "labels" / f"{part}1.txt", "\n".join(lines) + "\n")


def write_flowers102(folder: Path) -> None:
    count = TRAIN + VAL + TEST
    numbers = np.random.default_rng(2).permutation(np.arange(1, count + 1))
    for number in numbers:
        write_noise(folder / "jpg" / f"image_{number:05}.jpg", int(number), SHAPE)
    labels = np.random.default_rng(3).integers(1, 103, count).astype(np.uint8)
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    train, val, test = np.split(numbers.astype(np.uint16), [TRAIN, TRAIN + VAL])
    savemat(folder / "setid.mat", {"trnid": train[None], "valid": val[None], "tstid": test[None]})


def write_pets(folder: Path) -> None:
    seed = 0
    for part, count in ("trainval", TRAIN), ("test", TEST):
        lines = []
        for number in range(count):
            seed += 1
            label = number % 3 + 1
            name = f"{('Birman', 'pug', 'boxer')[label - 1]}_{seed}"
            lines.append(f"{name} {label} 1 1")
            write_noise(folder / "images" / f"{name}.jpg", seed, SHAPE)
            write_noise(folder / "annotations" / "trimaps" / f"{name}.png", seed, SHAPE[:2])
        _write(folder / "annotations" / f"{part}.txt", "\n".join(reversed(lines)) + "\n")


def write_eurosat(folder: Path) -> None:
    for seed in range(40):
        name = EUROSAT[seed * 7 % 10]
        write_noise(folder / "2750" / name / f"{name}_{seed + 1}.jpg", seed, (64, 64, 3))


def write_resisc45(folder: Path) -> None:
    """Write ``NWPU-RESISC45/<class>`` with an image of each of the 45 classes."""
    from tensorflow_datasets.datasets.resisc45 import resisc45_dataset_builder

    for seed, name in enumerate(resisc45_dataset_builder._LABELS):
        write_noise(folder / "NWPU-RESISC45" / name / f"{name}_{seed:03}.jpg", seed, SHAPE)


def write_sun397(folder: Path, keys: list[str]) -> None:
    """Write ``SUN397/a/abbey/<file>`` and so on for keys such as ``/a/abbey/<file>``."""
    _write(folder / "SUN397" / "ClassName.txt", "")
    for seed, key in enumerate(keys):
        write_noise(folder / "SUN397" / key.lstrip("/"), seed, SHAPE)


def write_caltech101(folder: Path) -> None:
    """Write three classes of 31, 32 and 33 images."""
    for name, count in ("Faces", 31), ("BACKGROUND_Google", 33), ("ant", 32):
        for number in range(1, count + 1):
            path = folder / "101_ObjectCategories" / name / f"image_{number:04}.jpg"
            write_noise(path, 100 * count + number, (4, 4, 3))


def write_patch_camelyon(folder: Path) -> None:
    draw = np.random.default_rng(4)
    folder.mkdir(parents=True)
    for part, count in ("train", TRAIN), ("valid", VAL), ("test", TEST):
        stem = f"camelyonpatch_level_2_split_{part}"
        with h5py.File(folder / f"{stem}_x.h5", "w") as file:
            file["x"] = draw.integers(0, 256, (count, 96, 96, 3), np.uint8)
        with h5py.File(folder / f"{stem}_y.h5", "w") as file:
            file["y"] = draw.integers(0, 2, (count, 1, 1, 1), np.uint8)


def write_clevr(folder: Path) -> None:
    draw = np.random.default_rng(5)
    inner = folder / "CLEVR_v1.0"
    for part, count in ("train", TRAIN), ("val", VAL), ("test", 3):
        scenes = []
        for number in range(count):
            name = f"CLEVR_{part}_{number:06}.png"
            write_noise(inner / "images" / part / name, int(draw.integers(1 << 30)), SHAPE)
            depths = draw.uniform(7, 12, draw.integers(3, 11)).round(15)
            depths[0] = (8, 8.5, 9.5 + 1e-9, 10)[number % 4]  # at a threshold, or rounded to it
            objects = [{**CUBE, "pixel_coords": [100, 200, depth]} for depth in depths.tolist()]
            scenes.append({"image_index": number, "image_filename": name, "objects": objects})
        if part != "test":
            _write(inner / "scenes" / f"CLEVR_{part}_scenes.json", json.dumps({"scenes": scenes}))
        _write(inner / "questions" / f"CLEVR_{part}_questions.json", json.dumps({"questions": []}))


def write_kitti(folder: Path, devkit: str = "") -> None:
    """Write ``raw/training`` and, in ``raw`` or ``raw/<devkit>``, ``mapping`` with 12 videos."""
    draw = np.random.default_rng(6)
    count = 4 * KITTI_VIDEOS
    raw = folder / "raw"
    for number in range(count):
        write_noise(raw / "training" / "image_2" / f"{number:06}.png", number, SHAPE)
        lines = []
        for kind in draw.choice(KITTI_TYPES, draw.integers(0, 4)):
            depth = draw.choice([3.5, 8.0, 8.01, 20.0, 20.01, 60.0])
            lines.append(f"{kind} 0.0 0 1.5 1.0 1.0 3.0 3.0 1.5 1.6 3.9 2.0 1.7 {depth} 0.5\n")
        _write(raw / "training" / "label_2" / f"{number:06}.txt", "".join(lines))
    day = "2011_09_26"
    lines = [f"{day} {day}_drive_{n % KITTI_VIDEOS:04}_sync {n:010}\n" for n in range(count)]
    order = ",".join(map(str, draw.permutation(count) + 1))
    _write(raw / devkit / "mapping" / "train_mapping.txt", "".join(lines))
    _write(raw / devkit / "mapping" / "train_rand.txt", f"{order}\n")


def write_dsprites(folder: Path) -> None:
    draw = np.random.default_rng(7)
    folder.mkdir(parents=True)
    sizes = [1, 3, 6, 40, 32, 32]
    classes = np.column_stack([draw.integers(0, size, 40) for size in sizes])
    name = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
    with h5py.File(folder / name, "w") as file:
        pixels = draw.integers(0, 2, (40, 64, 64), np.uint8)
        file.create_dataset("imgs", data=pixels, chunks=(16, 8, 8), compression="gzip")
        file["latents/classes"] = classes
        file["latents/values"] = classes.astype(np.float64)


def write_smallnorb(folder: Path) -> None:
    draw = np.random.default_rng(8)
    folder.mkdir(parents=True)
    for toys, part, count in ("46789", "training", TRAIN), ("01235", "testing", TEST + VAL):
        info = np.column_stack([draw.integers(0, size, count) for size in (10, 9, 18, 6)])
        info[:, 2] *= 2
        parts = {
            "dat": draw.integers(0, 256, (count, 2, 96, 96), np.uint8),
            "cat": draw.integers(0, 5, count).astype("<i4"),
            "info": info.astype("<i4"),
        }
        for kind, values in parts.items():
            sizes = [*values.shape, 1, 1][: max(3, values.ndim)]
            magic = 507333717 if values.dtype == np.uint8 else 507333716
            head = struct.pack(f"<ii{len(sizes)}i", magic, values.ndim, *sizes)
            (folder / NORB.format(toys, part, kind)).write_bytes(head + values.tobytes())


def small(task: Task) -> Task:
    """Return a row with sub-splits of 8 and 2 images where the published ones have 800 and 200."""
    train, val, test = (rule.replace("800", "8").replace("200", "2") for rule in task.rules)
    return replace(task, rules=(train, val, test))


def _pickle_as_python_2(file: Path, held: dict[str, Any]) -> None:
    """Write what CIFAR's authors wrote: protocol 2, and numpy where it was at the time."""
    data = pickle.dumps(held, protocol=2)
    file.write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


WRITERS: dict[str, Callable[[Path], None]] = {
    "cifar100": write_cifar100,
    "dtd": write_dtd,
    "svhn": write_svhn,
    "flowers102": write_flowers102,
    "pets": write_pets,
    "eurosat": write_eurosat,
    "resisc45": write_resisc45,
    "patch_camelyon": write_patch_camelyon,
    "clevr_count": write_clevr,
    "clevr_dist": write_clevr,
    "kitti_dist": write_kitti,
    "dsprites_loc": write_dsprites,
    "dsprites_ori": write_dsprites,
    "smallnorb_azi": write_smallnorb,
    "smallnorb_ele": write_smallnorb,
}
"""Writers of sets that TFDS's builders can prepare here, by task."""


def write(name: str, root: Path) -> Path:
    """Write the set of a task into a folder below ``root``, and return it."""
    WRITERS[name](root / name)
    return root / name

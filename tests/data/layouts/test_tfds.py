import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniature import vtab
from miniature.prepare import Prepared
from miniature.reading import labels, pixels, read
from pcvpt.data.image_files import load
from pcvpt.data.layouts.tfds import LAYOUT
from pcvpt.data.tasks.table import TASKS

FORMATS = ("array_record", "tfrecord")
CIFAR = vtab.small(TASKS["cifar100"])


def _last_below(value: float, thresholds: list[float]) -> int:
    return int(np.max(np.where(np.array(thresholds) < value)))


def _vehicles(objects: dict[str, Any]) -> list[float]:
    pairs = zip(objects["type"], objects["location"], strict=True)
    return [float(location[2]) for kind, location in pairs if kind < 3]


# What VTAB computes, from examples that TFDS has decoded.
LABELS: dict[str, Callable[[dict[str, Any]], int]] = {
    "clevr_count": lambda found: len(found["objects"]["size"]) - 3,
    "clevr_dist": lambda found: _last_below(
        np.min(found["objects"]["pixel_coords"], axis=0)[2], [0, 8, 8.5, 9, 9.5, 10, 100]
    ),
    "kitti_dist": lambda found: _last_below(
        min([*_vehicles(found["objects"]), 1000.0]), [-100, 8, 20, 999]
    ),
    "dsprites_loc": lambda found: int(found["label_x_position"] // 2),
    "dsprites_ori": lambda found: int(found["label_orientation"] // 2.5),
    "smallnorb_azi": lambda found: int(found["label_azimuth"]),
    "smallnorb_ele": lambda found: int(found["label_elevation"]),
}
QUICK = [("kitti_dist", "tfrecord"), ("dsprites_ori", "tfrecord"), ("pets", "array_record")]
ALL = [(name, file_format) for name in vtab.WRITERS for file_format in FORMATS]


def _examples(builder: Any, rule: str) -> Iterator[dict[str, Any]]:
    """Yield what TFDS itself gives for a rule."""
    split, _, count = rule.partition("+")
    source = builder.as_data_source(split=split)
    for index in range(int(count) if count else len(source)):
        yield source[index]


@pytest.mark.parametrize(
    ("name", "file_format"),
    QUICK + [pytest.param(*each, marks=pytest.mark.slow) for each in ALL if each not in QUICK],
)
def test_images_and_labels_are_those_of_tfds_in_its_order(
    prepared: Prepared, name: str, file_format: str
) -> None:
    task = vtab.small(TASKS[name])
    prepared.builder(task, file_format)
    splits = read(LAYOUT, task, prepared.root / file_format)
    theirs = prepared.builder(task, "array_record")  # the only format TFDS slices without TF
    assert splits.val is not None
    for rule, ours in zip(task.rules, (splits.train, splits.val, splits.test), strict=True):
        examples = list(_examples(theirs, rule))
        assert len(ours) == len(examples) > 0
        label = LABELS.get(name, lambda found: int(found["label"]))
        assert labels(ours) == [label(found) for found in examples]
        for image, found in zip(pixels(ours), examples, strict=True):
            scale = np.uint8(255 if name.startswith("dsprites") else 1)
            assert np.array_equal(image, np.broadcast_to(found["image"] * scale, image.shape))


@pytest.mark.parametrize("name", ["eurosat", pytest.param("dtd", marks=pytest.mark.slow)])
def test_classes_have_the_names_that_tfds_knows(prepared: Prepared, name: str) -> None:
    task = vtab.small(TASKS[name])
    builder = prepared.builder(task)
    splits = read(LAYOUT, task, prepared.root / "tfrecord")
    assert list(splits.class_names) == builder.info.features["label"].names
    found = f"{builder.info.full_name.replace(f'/{builder.version}', '')}:{builder.version}"
    assert splits.source == f"tfds {found} (tfrecord) in {builder.data_dir}"


@pytest.mark.parametrize(
    ("name", "version", "note"),
    [("pets", "4.0.0", "re-encodes 12"), ("kitti_dist", "3.3.0", "3.2")],
)
def test_a_later_version_that_is_equivalent_is_taken_and_noted(
    prepared: Prepared, name: str, version: str, note: str
) -> None:
    task = vtab.small(TASKS[name])
    assert Path(prepared.builder(task).data_dir).name == version
    (found,) = read(LAYOUT, task, prepared.root / "tfrecord").notes
    assert note in found


@pytest.mark.parametrize("below", ["", "tensorflow_datasets", "vtab-1k"])
def test_a_data_set_is_found_from_any_folder_above_it(
    prepared: Prepared, tmp_path: Path, below: str
) -> None:
    task = TASKS["eurosat"]
    made = tmp_path / below / "eurosat" / "rgb" / "2.0.0"
    shutil.copytree(prepared.builder(task).data_dir, made)
    for root in tmp_path, tmp_path / below, made.parents[1], made.parent, made:
        assert LAYOUT.find(task, root) == made
    assert LAYOUT.find(TASKS["cifar100"], tmp_path) is None
    assert LAYOUT.find(TASKS["cars"], tmp_path) is None


def test_the_newest_suitable_version_is_taken(tmp_path: Path) -> None:
    for version in "3.0.2", "3.0.10", "4.0.0", "1.0.0", "3.0.11.incomplete7F":
        folder = tmp_path / "cifar100" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
        (folder / "cifar100-train.tfrecord-00000-of-00001").touch()
    assert LAYOUT.find(TASKS["cifar100"], tmp_path) == tmp_path / "cifar100" / "3.0.10"


def test_the_required_files_name_the_versions() -> None:
    assert LAYOUT.required_files(TASKS["cars"]) == ""
    assert LAYOUT.required_files(TASKS["sun397"]).startswith("sun397/tfds/4.*/dataset_info.json")
    assert LAYOUT.required_files(TASKS["pets"]).startswith("oxford_iiit_pet/3.* (or 4.*)/dataset")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_shard_that_is_not_needed_is_not_opened(
    prepared: Prepared, tmp_path: Path, file_format: str
) -> None:
    task = replace(CIFAR, rules=("train[:8]", "train+2", "train[:3]"))
    folder = prepared.copy(task, tmp_path, file_format)
    (last,) = folder.glob("cifar100-train*-00001-of-00002")
    last.write_bytes(b"")
    assert len(pixels(read(LAYOUT, task, tmp_path).train)) == 8


@pytest.mark.parametrize("file_format", FORMATS)
def test_images_survive_pickling_forks_and_threads(prepared: Prepared, file_format: str) -> None:
    prepared.builder(CIFAR, file_format)
    items = read(LAYOUT, CIFAR, prepared.root / file_format).train
    here = pixels(items)
    assert np.array_equal(pixels(pickle.loads(pickle.dumps(items))), here)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert np.array_equal(pool.apply_async(pixels, (items,)).get(timeout=120), here)
    with ThreadPoolExecutor(4) as threads:
        many = list(threads.map(lambda item: np.asarray(load(item.source)), items * 10))
    assert np.array_equal(many, here * 10)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_images_are_read_in_a_spawned_process(prepared: Prepared, file_format: str) -> None:
    prepared.builder(CIFAR, file_format)
    items = read(LAYOUT, CIFAR, prepared.root / file_format).train
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.map(load, [item.source for item in items]), pixels(items))

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
from numpy.typing import NDArray

from miniature import vtab
from miniature.prepare import Prepared
from pcvpt.data.image_files import load
from pcvpt.data.layouts.base import Reading
from pcvpt.data.layouts.tfds import layout as tfds
from pcvpt.data.splits import Item
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tasks.task import Task

FORMATS = ("array_record", "tfrecord")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("tfds"))


def _read(task: Task, root: Path) -> Reading:
    folder = tfds.find(task, root)
    assert folder is not None
    return tfds.read(task, folder)


def _pixels(items: tuple[Item, ...]) -> list[NDArray[np.uint8]]:
    return [np.asarray(load(item.source)) for item in items]


def _labels(items: tuple[Item, ...]) -> list[int]:
    return [item.label for item in items]


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


def _examples(builder: Any, rule: str) -> Iterator[dict[str, Any]]:
    """Yield what TFDS itself gives for a rule."""
    split, _, count = rule.partition("+")
    source = builder.as_data_source(split=split)
    for index in range(int(count) if count else len(source)):
        yield source[index]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", vtab.WRITERS)
def test_images_and_labels_are_those_of_tfds_in_its_order(
    prepared: Prepared, name: str, file_format: str
) -> None:
    task = vtab.small(TASKS[name])
    prepared.builder(task, file_format)
    reading = _read(task, prepared.root / file_format)
    theirs = prepared.builder(task, "array_record")  # the only format TFDS slices without TF
    assert reading.val is not None
    for rule, ours in zip(task.rules, (reading.train, reading.val, reading.test), strict=True):
        examples = list(_examples(theirs, rule))
        assert len(ours) == len(examples) > 0
        label = LABELS.get(name, lambda found: int(found["label"]))
        assert _labels(ours) == [label(found) for found in examples]
        for pixels, found in zip(_pixels(ours), examples, strict=True):
            scale = np.uint8(255 if name.startswith("dsprites") else 1)
            assert np.array_equal(pixels, np.broadcast_to(found["image"] * scale, pixels.shape))


@pytest.mark.parametrize("name", ["cifar100", "dtd", "pets", "eurosat", "kitti_dist"])
def test_classes_have_the_names_that_tfds_knows_or_numbers(prepared: Prepared, name: str) -> None:
    task = vtab.small(TASKS[name])
    builder = prepared.builder(task)
    reading = _read(task, prepared.root / "tfrecord")
    if name == "kitti_dist":
        assert reading.class_names == ("0", "1", "2", "3")
    else:
        assert list(reading.class_names) == builder.info.features["label"].names


def test_the_source_says_what_was_read_from_where(prepared: Prepared) -> None:
    task = vtab.small(TASKS["eurosat"])
    folder = Path(prepared.builder(task).data_dir)
    assert _read(task, folder).source == f"tfds eurosat/rgb:2.0.0 (tfrecord) in {folder}"


def test_a_later_version_that_is_equal_is_taken_and_noted(prepared: Prepared) -> None:
    for name, version, note in ("pets", "4.0.0", "re-encodes 12"), ("kitti_dist", "3.3.0", "3.2"):
        task = vtab.small(TASKS[name])
        assert Path(prepared.builder(task).data_dir).name == version
        (found,) = _read(task, prepared.root / "tfrecord").notes
        assert note in found


@pytest.mark.parametrize("below", ["", "tensorflow_datasets", "vtab-1k"])
def test_a_set_is_found_from_any_folder_above_it(
    prepared: Prepared, tmp_path: Path, below: str
) -> None:
    task = TASKS["eurosat"]
    made = tmp_path / below / "eurosat" / "rgb" / "2.0.0"
    shutil.copytree(prepared.builder(task).data_dir, made)
    for root in tmp_path, tmp_path / below, made.parents[1], made.parent, made:
        assert tfds.find(task, root) == made
    assert tfds.find(TASKS["cifar100"], tmp_path) is None
    assert tfds.find(TASKS["cars"], tmp_path) is None


def test_the_newest_version_is_taken_and_unfit_ones_are_not(tmp_path: Path) -> None:
    for version in "3.0.2", "3.0.10", "4.0.0", "1.0.0", "3.0.11.incomplete7F":
        folder = tmp_path / "cifar100" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
        (folder / "cifar100-train.tfrecord-00000-of-00001").touch()
    found = tfds.find(TASKS["cifar100"], tmp_path)
    assert found == tmp_path / "cifar100" / "3.0.10"


def test_what_is_looked_for_names_the_versions() -> None:
    assert tfds.expected(TASKS["cars"]) == ""
    assert tfds.expected(TASKS["sun397"]).startswith("sun397/tfds/4.*/dataset_info.json")
    assert tfds.expected(TASKS["pets"]).startswith("oxford_iiit_pet/3.* (or 4.*)/dataset_info.json")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_shard_that_is_not_needed_is_not_opened(
    prepared: Prepared, tmp_path: Path, file_format: str
) -> None:
    task = replace(vtab.small(TASKS["cifar100"]), rules=("train[:8]", "train+2", "train[:3]"))
    folder = prepared.copy(task, tmp_path, file_format)
    (last,) = folder.glob("cifar100-train*-00001-of-00002")
    last.write_bytes(b"")
    assert len(_pixels(_read(task, tmp_path).train)) == 8


@pytest.mark.parametrize("file_format", FORMATS)
def test_images_outlive_pickling_forks_and_threads(prepared: Prepared, file_format: str) -> None:
    task = vtab.small(TASKS["cifar100"])
    prepared.builder(task, file_format)
    items = _read(task, prepared.root / file_format).train
    here = _pixels(items)
    assert np.array_equal(_pixels(pickle.loads(pickle.dumps(items))), here)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert np.array_equal(pool.apply_async(_pixels, (items,)).get(timeout=30), here)
    with ThreadPoolExecutor(4) as threads:
        many = list(threads.map(lambda item: np.asarray(load(item.source)), items * 10))
    assert np.array_equal(many, here * 10)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_images_are_read_in_a_spawned_process(prepared: Prepared, file_format: str) -> None:
    task = vtab.small(TASKS["cifar100"])
    prepared.builder(task, file_format)
    items = _read(task, prepared.root / file_format).train
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.map(load, [item.source for item in items]), _pixels(items))

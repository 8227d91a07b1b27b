import gzip
import multiprocessing
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from miniature import vtab
from miniature.prepare import prepare
from pcvpt.data.image_files import load
from pcvpt.data.layouts.base import Reading
from pcvpt.data.layouts.tfds import layout as tfds
from pcvpt.data.layouts.torchvision import hdf5, image_folders
from pcvpt.data.layouts.torchvision import layout as torchvision
from pcvpt.data.splits import Item
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tasks.task import Task
from pcvpt.data.tasks.tfds_splits import tfds_order
from pcvpt.errors import UsageError

SUN = [f"/{name[0]}/{name}/sun_{number}.jpg" for name in ("abbey", "zoo") for number in range(12)]


def _write(name: str, root: Path) -> Path:
    folder = root / TASKS[name].name
    vtab.WRITERS[name](folder)
    return folder


def _read(task: Task, root: Path) -> Reading:
    folder = torchvision.find(task, root)
    assert folder is not None
    return torchvision.read(task, folder)


def _pixels(items: tuple[Item, ...] | None) -> list[NDArray[np.uint8]]:
    return [np.asarray(load(item.source)) for item in items or ()]


def _labels(items: tuple[Item, ...] | None) -> list[int]:
    return [item.label for item in items or ()]


@pytest.mark.parametrize("name", vtab.WRITERS)
def test_sub_splits_labels_and_pixels_are_those_of_tfds(name: str, tmp_path: Path) -> None:
    task = vtab.small(TASKS[name])
    source = _write(name, tmp_path / "published")
    prepare(task.tfds.partition(":")[0], source, tmp_path / "prepared", "tfrecord")
    prepared = tfds.find(task, tmp_path / "prepared")
    assert prepared is not None
    theirs, ours = tfds.read(task, prepared), _read(task, tmp_path / "published")
    for part in "train", "val", "test":
        assert _labels(getattr(ours, part)) == _labels(getattr(theirs, part)) != []
        pairs = zip(_pixels(getattr(ours, part)), _pixels(getattr(theirs, part)), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


def test_what_systems_leave_in_folders_changes_nothing(tmp_path: Path) -> None:
    for name, below in ("eurosat", "2750/Forest"), ("clevr_dist", "CLEVR_v1.0/images/train"):
        task = vtab.small(TASKS[name])
        folder = _write(name, tmp_path) / below
        before = _read(task, tmp_path)
        for stray in "Thumbs.db", ".DS_Store", "._1.jpg":
            (folder / stray).touch()
        assert _read(task, tmp_path).train == before.train


@pytest.mark.parametrize("name", ["cifar100", "dtd", "eurosat", "resisc45"])
def test_classes_have_the_names_that_tfds_gives_them(name: str, tmp_path: Path) -> None:
    task = vtab.small(TASKS[name])
    source = _write(name, tmp_path)
    builder = prepare(task.tfds.partition(":")[0], source, tmp_path / "tfds", "tfrecord")
    assert list(_read(task, tmp_path).class_names) == builder.info.features["label"].names


def test_classes_of_pets_are_named_after_their_images(tmp_path: Path) -> None:
    _write("pets", tmp_path)
    names = _read(vtab.small(TASKS["pets"]), tmp_path).class_names
    assert names[:4] == ("Birman", "pug", "boxer", "3")
    assert len(names) == 37


@pytest.mark.parametrize("devkit", ["", "devkit", "devkit_object"])
def test_the_development_kit_of_kitti_may_lie_in_its_folder(devkit: str, tmp_path: Path) -> None:
    vtab.write_kitti(tmp_path / "Kitti", devkit)
    reading = _read(vtab.small(TASKS["kitti_dist"]), tmp_path)
    assert len(reading.train) == 8


def test_without_the_development_kit_kitti_says_where_it_is(tmp_path: Path) -> None:
    vtab.write_kitti(tmp_path / "Kitti", "elsewhere")
    with pytest.raises(UsageError, match=r"devkit_object\.zip into .*raw/devkit"):
        _read(vtab.small(TASKS["kitti_dist"]), tmp_path)


@pytest.fixture
def sun397(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, Path]:
    """SUN397 of two classes, with lists as those of TFDS."""
    vtab.write_sun397(tmp_path, SUN)
    lists = tmp_path / "tensorflow_datasets" / "image_classification"
    lists.mkdir(parents=True)
    unreadable = "/t/track/outdoor/sun_aophkoiosslinihb.jpg"  # TFDS leaves it out
    parts = {"tr": [*SUN[::2], unreadable], "va": SUN[1::4], "te": SUN[3::4]}
    for part, keys in parts.items():
        (lists / f"sun397_tfds_{part}.txt").write_text("\n".join(keys) + "\n")
    monkeypatch.setattr(image_folders, "_tfds_folder", lambda folder: lists.parent)
    return replace(vtab.small(TASKS["sun397"]), num_classes=3), tmp_path


def test_sun397_follows_the_lists_of_tfds(sun397: tuple[Task, Path]) -> None:
    task, root = sun397
    reading = _read(task, root)
    keys = SUN[::2]
    order = [keys[at] for at in tfds_order("train", keys)][:8]
    assert [item.source for item in reading.train] == [root / "SUN397" / k[1:] for k in order]
    assert _labels(reading.train) == [0 if "abbey" in key else 2 for key in order]
    assert reading.class_names == ("/a/abbey", "/t/track/outdoor", "/z/zoo")
    assert "shrinks" in reading.notes[0]


def test_the_lists_of_sun397_are_where_they_are_looked_for() -> None:
    lists = image_folders._tfds_folder(Path()) / "image_classification"
    assert (lists / "sun397_tfds_te.txt").read_text().count("\n") == TASKS["sun397"].test


def test_without_the_lists_sun397_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vtab.write_sun397(tmp_path, SUN[:1])
    monkeypatch.setattr(image_folders, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'pcvpt\[tfds\]'"):
        _read(TASKS["sun397"], tmp_path)


def test_caltech101_has_30_training_images_a_class_and_is_not_tfds(tmp_path: Path) -> None:
    vtab.write_caltech101(tmp_path / "caltech101")
    task = replace(TASKS["caltech101"], num_classes=3)
    reading = _read(replace(task, rules=("train", "train+2", "test")), tmp_path)
    assert np.bincount(_labels(reading.train)).tolist() == [30, 30, 30]
    assert np.bincount(_labels(reading.test)).tolist() == [2, 3, 1]
    assert reading.class_names == ("ant", "background_google", "faces")
    assert not {item.source for item in reading.train} & {item.source for item in reading.test}
    assert "not those of the published" in reading.notes[0]
    again = _read(replace(task, rules=("train", "train+2", "test")), tmp_path)
    assert again.train == reading.train


def test_smallnorb_may_be_packed(tmp_path: Path) -> None:
    folder = _write("smallnorb_azi", tmp_path)
    task = vtab.small(TASKS["smallnorb_azi"])
    plain = _read(task, tmp_path)
    for file in folder.iterdir():
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = _read(task, tmp_path)
    assert _labels(packed.test) == _labels(plain.test)
    assert np.array_equal(_pixels(packed.test), _pixels(plain.test))


@pytest.mark.parametrize("name", ["patch_camelyon", "dsprites_loc"])
def test_images_outlive_pickling_and_forks(name: str, tmp_path: Path) -> None:
    _write(name, tmp_path)
    train = _read(vtab.small(TASKS[name]), tmp_path).train
    assert np.array_equal(_pixels(pickle.loads(pickle.dumps(train))), _pixels(train))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert np.array_equal(pool.apply_async(_pixels, (train,)).get(timeout=30), _pixels(train))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    folder = _write("cifar100", tmp_path) / "cifar-100-python"
    (folder / "train").write_bytes(pickle.dumps({"data": print}))
    with pytest.raises(UsageError, match=r"train: .*print does not belong there"):
        _read(vtab.small(TASKS["cifar100"]), tmp_path)


def test_without_h5py_its_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write("patch_camelyon", tmp_path)
    monkeypatch.setattr(hdf5, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'pcvpt\[tfds\]'"):
        _read(vtab.small(TASKS["patch_camelyon"]), tmp_path)


def test_a_set_is_found_below_the_root_and_in_its_own_folder(tmp_path: Path) -> None:
    for name in vtab.WRITERS:
        inside = tmp_path / name / TASKS[name].folders[0] if TASKS[name].folders else None
        folder = inside or tmp_path / name / name
        vtab.WRITERS[name](folder)
        found = torchvision.find(TASKS[name], folder)
        assert found is not None
        assert torchvision.find(TASKS[name], tmp_path / name) == found
        assert torchvision.find(TASKS[name], tmp_path) is None


def test_tasks_without_published_files_are_not_looked_for(tmp_path: Path) -> None:
    without = {name for name, task in TASKS.items() if not torchvision.expected(task)}
    fgvc = {name for name, task in TASKS.items() if task.suite == "fgvc"}
    assert without == fgvc | {"dmlab", "diabetic_retinopathy"}
    assert all(torchvision.find(TASKS[name], tmp_path) is None for name in without)


def test_what_is_looked_for_is_what_marks_the_set() -> None:
    assert re.search("dtd/labels/train1.txt", torchvision.expected(TASKS["dtd"]))
    assert re.search("CLEVR_v1.0/scenes", torchvision.expected(TASKS["clevr_dist"]))

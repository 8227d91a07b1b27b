import gzip
import multiprocessing
import pickle
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from miniature import vtab
from miniature.prepare import Prepared
from miniature.reading import fails, labels, pixels, read, same
from pcvpt.data.layouts.tfds import LAYOUT as TFDS
from pcvpt.data.layouts.torchvision import LAYOUT, image_folders
from pcvpt.data.tasks.table import TASKS, Task
from pcvpt.data.tasks.tfds_splits import tfds_order

SUN = [f"/{name[0]}/{name}/sun_{number}.jpg" for name in ("abbey", "zoo") for number in range(12)]
QUICK = ["kitti_dist", "dsprites_ori", "pets"]


@pytest.mark.parametrize(
    "name",
    QUICK
    + [pytest.param(each, marks=pytest.mark.slow) for each in vtab.WRITERS if each not in QUICK],
)
def test_sub_splits_labels_and_pixels_are_those_of_tfds(
    name: str, prepared: Prepared, tmp_path: Path
) -> None:
    task = vtab.small(TASKS[name])
    prepared.builder(task)
    vtab.write(name, tmp_path)
    theirs, ours = read(TFDS, task, prepared.root / "tfrecord"), read(LAYOUT, task, tmp_path)
    for part in "train", "val", "test":
        same(getattr(ours, part), getattr(theirs, part))


@pytest.mark.parametrize("name", vtab.WRITERS)
def test_a_data_set_is_found_and_read_below_the_root_and_in_its_folder(
    name: str, tmp_path: Path
) -> None:
    task = vtab.small(TASKS[name])
    folder = tmp_path / name / (TASKS[name].folders or (name,))[0]
    vtab.WRITERS[name](folder)
    found = LAYOUT.find(task, folder)
    assert found is not None
    assert LAYOUT.find(task, tmp_path / name) == found
    splits = LAYOUT.read(task, found)
    assert [len(splits.train), len(splits.val or ())] == [8, 2]
    assert str(found) in splits.source
    assert name != "pets" or splits.class_names[:4] == ("Birman", "pug", "boxer", "3")


def test_what_systems_leave_in_folders_changes_nothing(tmp_path: Path) -> None:
    for name, below in ("eurosat", "2750/Forest"), ("clevr_dist", "CLEVR_v1.0/images/train"):
        task = vtab.small(TASKS[name])
        folder = vtab.write(name, tmp_path) / below
        before = read(LAYOUT, task, tmp_path)
        for stray in "Thumbs.db", ".DS_Store", "._1.jpg":
            (folder / stray).touch()
        assert read(LAYOUT, task, tmp_path).train == before.train


@pytest.mark.parametrize(
    "name", ["cifar100", "eurosat", pytest.param("dtd", marks=pytest.mark.slow)]
)
def test_classes_have_the_names_that_tfds_gives_them(
    name: str, prepared: Prepared, tmp_path: Path
) -> None:
    task = vtab.small(TASKS[name])
    vtab.write(name, tmp_path)
    names = prepared.builder(task).info.features["label"].names
    assert list(read(LAYOUT, task, tmp_path).class_names) == names


def test_the_development_kit_of_kitti_is_found_or_its_place_named(tmp_path: Path) -> None:
    task = vtab.small(TASKS["kitti_dist"])
    vtab.write_kitti(tmp_path / "Kitti", "elsewhere")
    raw = tmp_path / "Kitti" / "raw"
    fails(LAYOUT, task, tmp_path, "devkit_object.zip", "raw/devkit")
    for place in "devkit", "devkit_object":
        next(each for each in raw.iterdir() if (each / "mapping").exists()).rename(raw / place)
        assert len(read(LAYOUT, task, tmp_path).train) == 8


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
    spec = ModuleSpec("tensorflow_datasets", None, origin=str(lists.parent / "__init__.py"))
    monkeypatch.setattr(image_folders, "find_spec", lambda _: spec)
    return replace(vtab.small(TASKS["sun397"]), num_classes=3), tmp_path


def test_sun397_follows_the_lists_of_tfds(sun397: tuple[Task, Path]) -> None:
    task, root = sun397
    splits = read(LAYOUT, task, root)
    keys = SUN[::2]
    order = [keys[at] for at in tfds_order("train", keys)][:8]
    assert [item.source for item in splits.train] == [root / "SUN397" / k[1:] for k in order]
    assert labels(splits.train) == [0 if "abbey" in key else 2 for key in order]
    assert splits.class_names == ("/a/abbey", "/t/track/outdoor", "/z/zoo")
    assert "shrinks" in splits.notes[0]


def test_tfds_has_the_lists_of_sun397() -> None:
    spec = find_spec("tensorflow_datasets")
    assert spec is not None
    lists = Path(str(spec.origin)).parent / "image_classification"
    assert (lists / "sun397_tfds_te.txt").read_text().count("\n") == TASKS["sun397"].test


def test_caltech101_has_30_training_images_of_each_class(tmp_path: Path) -> None:
    vtab.write_caltech101(tmp_path / "caltech101")
    task = replace(TASKS["caltech101"], num_classes=3, rules=("train", "train+2", "test"))
    splits = read(LAYOUT, task, tmp_path)
    assert np.bincount(labels(splits.train)).tolist() == [30, 30, 30]
    assert np.bincount(labels(splits.test)).tolist() == [2, 3, 1]
    assert splits.class_names == ("ant", "background_google", "faces")
    assert not {item.source for item in splits.train} & {item.source for item in splits.test}
    assert "not those of the published" in splits.notes[0]
    assert read(LAYOUT, task, tmp_path).train == splits.train


def test_smallnorb_may_be_packed(tmp_path: Path) -> None:
    folder = vtab.write("smallnorb_azi", tmp_path)
    task = vtab.small(TASKS["smallnorb_azi"])
    plain = read(LAYOUT, task, tmp_path)
    for file in folder.iterdir():
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 1))
        file.unlink()
    same(read(LAYOUT, task, tmp_path).test, plain.test)


@pytest.mark.parametrize("name", ["patch_camelyon", "dsprites_loc"])
def test_images_survive_pickling_and_forks(name: str, tmp_path: Path) -> None:
    vtab.write(name, tmp_path)
    train = read(LAYOUT, vtab.small(TASKS[name]), tmp_path).train
    assert np.array_equal(pixels(pickle.loads(pickle.dumps(train))), pixels(train))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert np.array_equal(pool.apply_async(pixels, (train,)).get(timeout=120), pixels(train))


@pytest.mark.parametrize(
    ("name", "missing"), [("patch_camelyon", "h5py"), ("sun397", "tensorflow_datasets")]
)
def test_a_package_that_is_not_installed_is_named(
    name: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "sun397":
        vtab.write_sun397(tmp_path, SUN[:1])
    else:
        vtab.write(name, tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    fails(LAYOUT, vtab.small(TASKS[name]), tmp_path, "pip install 'pcvpt[tfds]'")


def test_only_tasks_with_published_files_are_found(tmp_path: Path) -> None:
    without = {name for name, task in TASKS.items() if not LAYOUT.required_files(task)}
    fgvc = {name for name, task in TASKS.items() if task.suite == "fgvc"}
    assert without == fgvc | {"dmlab", "diabetic_retinopathy"}
    assert all(LAYOUT.find(TASKS[name], tmp_path) is None for name in without)
    assert "dtd/labels/train1.txt" in LAYOUT.required_files(TASKS["dtd"])
    assert "CLEVR_v1.0/scenes" in LAYOUT.required_files(TASKS["clevr_dist"])

"""Miniature data sets, from a server on this machine."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from miniature.archives import tar, zipped
from miniature.reading import contents
from miniature.site import Site
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tools.fetch import tfds as preparing
from pcvpt.data.tools.fetch.get import get, plan
from pcvpt.data.tools.fetch.sources import SOURCES, Source
from pcvpt.errors import UsageError

KITTI = TASKS["kitti_dist"]
LABELS = zipped({"training/label_2/0.txt": b"Car"})
FILES = {
    "Kitti/raw/training/image_2/0.png": b"0",
    "Kitti/raw/training/label_2/0.txt": b"Car",
    "Kitti/raw/devkit/mapping/train_mapping.txt": b"m",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "my data"


@pytest.fixture
def kitti(site: Site, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Three archives that meet in the same folders, one of them needed in part."""
    images = zipped({"training/image_2/0.png": b"0", "testing/image_2/1.png": b"1"})
    devkit = tar({"mapping/train_mapping.txt": b"m"}, compressed=True)
    source = replace(
        SOURCES["kitti_dist"],
        archives=(
            site.offer("images.zip", images, into="Kitti/raw", member="training"),
            site.offer("labels.zip", LABELS, into="Kitti/raw"),
            site.offer("devkit.tgz", devkit, into="Kitti/raw/devkit"),
        ),
    )
    monkeypatch.setitem(SOURCES, "kitti_dist", source)
    return source


def test_archives_that_meet_in_one_folder_are_put_together(
    site: Site, kitti: Source, root: Path
) -> None:
    seen: list[str] = []
    outcome = get(KITTI, root, on_progress=lambda what, *_: seen.append(what))
    assert outcome.folder == root / "Kitti"
    assert f"pcvpt data verify kitti_dist --root '{root}'" in outcome.text
    assert contents(root) == FILES
    assert [path.name for path in root.iterdir()] == ["Kitti"]
    assert set(seen) == {
        f"{verb} {each.filename}"
        for verb in ("downloading", "unpacking")
        for each in kitti.archives
    }
    site.asked.clear()
    again = get(KITTI, root)
    assert again.text in plan(KITTI, root)
    assert "kitti_dist is there already: torchvision in" in again.text
    assert again.folder is not None
    assert site.asked == []


def test_two_tasks_share_one_data_set(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = SOURCES["smallnorb_azi"]
    archives = tuple(site.offer(name, b"m", into="smallnorb") for name in row.required)
    for name in "smallnorb_azi", "smallnorb_ele":
        monkeypatch.setitem(SOURCES, name, replace(row, archives=archives))
        assert get(TASKS[name], root).folder == root / "smallnorb"
    assert len(site.asked) == len(archives)
    assert sorted(contents(root / "smallnorb")) == sorted(row.required)


def test_an_archive_in_an_archive_is_unpacked(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = SOURCES["caltech101"].archives[0]
    inner = tar({"101_ObjectCategories/BACKGROUND_Google/1.jpg": b"x"}, compressed=True)
    outer = zipped({row.member: inner, "__MACOSX/._x": b"", "caltech-101/show.m": b""})
    archive = site.offer("c.zip", outer, into=row.into, member=row.member)
    monkeypatch.setitem(SOURCES, "caltech101", replace(SOURCES["caltech101"], archives=(archive,)))
    get(TASKS["caltech101"], root)
    assert contents(root) == {"caltech101/101_ObjectCategories/BACKGROUND_Google/1.jpg": b"x"}


def test_a_file_that_the_user_brings_is_taken_if_it_is_the_right_one(
    site: Site, kitti: Source, root: Path
) -> None:
    images = site.files.pop("images.zip")
    place = root / ".downloads" / "Kitti" / "images.zip"
    with pytest.raises(UsageError) as caught:
        get(KITTI, root)
    for words in f"{site.url}/images.zip", "404", str(place), "pcvpt data get kitti_dist":
        assert words in str(caught.value)
    assert not (root / "Kitti").exists()
    place.write_bytes(b"x" * len(images))
    with pytest.raises(UsageError, match=r"images\.zip: its SHA-256 is"):
        get(KITTI, root)
    place.write_bytes(images)
    get(KITTI, root)
    assert contents(root) == FILES


def test_a_lacking_or_broken_archive_leaves_no_data_set_and_keeps_what_was_downloaded(
    site: Site, kitti: Source, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _, devkit = kitti.archives
    evil = site.offer("labels.zip", zipped({"../evil": b"x"}), into="Kitti/raw")
    for archives, message in (
        ((images,), r"images\.zip: no raw/training/label_2"),
        ((images, evil, devkit), "would lie outside the folder"),
    ):
        monkeypatch.setitem(SOURCES, "kitti_dist", replace(kitti, archives=archives))
        with pytest.raises(UsageError, match=message):
            get(KITTI, root)
        assert [path.name for path in root.iterdir()] == [".downloads"]
    monkeypatch.setitem(SOURCES, "kitti_dist", kitti)
    (root / ".downloads" / "Kitti" / "labels.zip").unlink()
    site.asked.clear()
    site.offer("labels.zip", LABELS)
    get(KITTI, root)
    assert site.asked == ["labels.zip"]
    assert contents(root) == FILES


def test_an_interrupt_leaves_no_half_of_a_data_set_and_archives_are_kept_on_request(
    site: Site, kitti: Source, root: Path
) -> None:
    def stop(what: str, *_: object) -> None:
        if what == "unpacking devkit.tgz":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(KITTI, root, on_progress=stop)
    assert not (root / "Kitti").exists()
    get(KITTI, root, keep_archives=True)
    shutil.rmtree(root / "Kitti")
    get(KITTI, root)
    assert len(site.asked) == 3
    assert contents(root) == FILES


def test_nothing_is_downloaded_onto_a_full_disk_or_an_incomplete_data_set(
    site: Site, kitti: Source, root: Path, set_free: Callable[[int], None]
) -> None:
    set_free(7)
    total = sum(each.size or 0 for each in kitti.archives)
    with pytest.raises(UsageError, match=f"the data set needs {2 * total:,} bytes, but 7 are free"):
        get(KITTI, root)
    (root / "Kitti" / "raw" / "training" / "image_2").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"Kitti: exists.*raw/training/label_2"):
        get(KITTI, root)
    assert site.asked == []


HOLD_LOCK = """
import pathlib, sys
from pcvpt.runs.lock import RunLock
lock = RunLock()
lock.take(pathlib.Path(sys.argv[1]))
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_processes_do_not_disturb_each_other(site: Site, kitti: Source, root: Path) -> None:
    command = [sys.executable, "-c", HOLD_LOCK, str(root / ".downloads" / "Kitti")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"
        with pytest.raises(UsageError, match=f"process {other.pid} .*is getting this data set"):
            get(KITTI, root)
        other.communicate()
    assert site.asked == []
    assert get(KITTI, root).folder == root / "Kitti"


@pytest.mark.parametrize("name", ["nabirds", "cars", "diabetic_retinopathy"])
def test_what_no_program_can_download_is_explained_in_steps(root: Path, name: str) -> None:
    text, folder = get(TASKS[name], root)
    assert folder is None
    assert "\n1. " in text
    assert "https://" in text
    assert text.endswith(f"pcvpt data verify {name} --root '{root}'")
    assert text in plan(TASKS[name], root)
    assert not root.exists()


def test_what_the_user_has_brought_is_found(root: Path) -> None:
    folder = root / "nabirds"
    (folder / "images").mkdir(parents=True)
    assert get(TASKS["nabirds"], root).folder is None  # not yet complete
    for name in SOURCES["cub"].required[1:]:
        (folder / name).touch()
    assert get(TASKS["nabirds"], root).folder == folder


@pytest.mark.parametrize("name", TASKS)
def test_the_plan_of_every_task_names_licence_place_and_archives(root: Path, name: str) -> None:
    text = plan(TASKS[name], root)
    assert TASKS[name].licence in text
    assert str(root) in text
    assert all(each.url in text for each in SOURCES[name].archives)
    assert "{" not in text
    assert not root.exists()


@pytest.mark.parametrize(("name", "via"), [("cub", "tfds"), ("dmlab", "authors")])
def test_a_way_that_a_task_does_not_have_is_refused(root: Path, name: str, via: Any) -> None:
    for function in get, plan:
        with pytest.raises(UsageError, match=f"via is '{via}', but {name}"):
            function(TASKS[name], root, via=via)


class FakeTFDS:
    """What ``prepare`` uses of TensorFlow Datasets; it writes what a layout is found by."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.manual: str | None = None
        self.download = SimpleNamespace(DownloadConfig=lambda manual_dir: manual_dir)

    def builder(self, name: str, data_dir: str, file_format: str) -> Any:
        assert file_format == "array_record"
        plain, _, version = name.partition(":")
        folder = Path(data_dir, plain, version.replace("*", "0"))

        def download_and_prepare(download_dir: str, download_config: str | None) -> None:
            self.manual = download_config
            if self.fault:
                raise self.fault
            Path(download_dir).mkdir(parents=True)
            folder.mkdir(parents=True)
            (folder / "dataset_info.json").write_text("{}")
            (folder / f"{plain.partition('/')[0]}-train.array_record").touch()

        return SimpleNamespace(data_dir=str(folder), download_and_prepare=download_and_prepare)


@pytest.fixture
def tfds(monkeypatch: pytest.MonkeyPatch) -> FakeTFDS:
    fake = FakeTFDS()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(preparing.importlib.util, "find_spec", lambda _: object())
    return fake


@pytest.mark.parametrize(
    ("name", "via", "place"),
    [
        ("dmlab", None, "dmlab/2.0.1"),
        ("sun397", "tfds", "sun397/tfds/4.0.0"),
        ("clevr_dist", "tfds", "clevr/3.0.0"),
        ("pets", "tfds", "oxford_iiit_pet/4.0.0"),
    ],
)
def test_tfds_prepares_a_data_set(
    root: Path, tfds: FakeTFDS, name: str, via: Any, place: str
) -> None:
    outcome, again = get(TASKS[name], root, via=via), get(TASKS[name], root, via=via)
    assert outcome.folder == again.folder == root / "tensorflow_datasets" / place
    assert "is there already" in again.text
    assert f"tensorflow_datasets/{place}/dataset_info.json" in contents(root)
    assert tfds.manual is None


def test_diabetic_retinopathy_is_prepared_once_its_files_exist(root: Path, tfds: FakeTFDS) -> None:
    name = "diabetic_retinopathy"
    for required in SOURCES[name].required:
        (root / "manual" / name / required).mkdir(parents=True)
    folder = get(TASKS[name], root).folder
    assert str(folder).endswith("diabetic_retinopathy_detection/btgraham-300/3.0.0")
    assert tfds.manual == str(root / "manual" / name)
    assert all((root / "manual" / name / each).exists() for each in SOURCES[name].required)


def test_what_goes_wrong_in_tfds_is_told(root: Path, tfds: FakeTFDS) -> None:
    tfds.fault = AssertionError("no such split")
    with pytest.raises(UsageError, match=r"dmlab:2\.0\.1 .AssertionError: no such split"):
        get(TASKS["dmlab"], root)
    assert not (root / "tensorflow_datasets").exists()


@pytest.mark.parametrize(
    ("name", "via", "missing", "words"),
    [
        ("dmlab", None, {"tensorflow"}, "pip install tensorflow"),
        ("dmlab", None, {"tensorflow_datasets", "tensorflow"}, "'pcvpt.tfds.' tensorflow"),
        ("patch_camelyon", "tfds", {"array_record", "tensorflow"}, "install 'pcvpt.tfds.'"),
    ],
)
def test_packages_that_tfds_needs_are_named_before_anything_is_downloaded(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    via: Any,
    missing: set[str],
    words: str,
) -> None:
    def find_spec(module: str) -> object:
        return None if module in missing else object()

    monkeypatch.setattr(preparing.importlib.util, "find_spec", find_spec)
    with pytest.raises(UsageError, match=words):
        get(TASKS[name], root, via=via)


@pytest.mark.slow
@pytest.mark.parametrize("name", [row.name for row in TASKS.values() if row.tfds])
def test_tfds_still_has_the_version_that_is_wanted(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    wanted: list[str] = []

    class Stop(Exception):
        pass

    def stop(builder: Any, **_: Any) -> None:
        wanted.append(builder.data_dir)
        raise Stop("far enough")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", stop)
    with pytest.raises(UsageError, match="Stop: far enough"):
        preparing.prepare(TASKS[name], root, None)
    folder = Path(wanted[0])
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").touch()
    (folder / f"{TASKS[name].tfds.partition(':')[0].partition('/')[0]}-train.x").touch()
    (root / "tfds").rename(root / "tensorflow_datasets")
    found = get(TASKS[name], root, via="tfds").folder
    assert found == root / "tensorflow_datasets" / folder.relative_to(root / "tfds")

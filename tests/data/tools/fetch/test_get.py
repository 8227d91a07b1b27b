"""Miniature data sets, got from a server on this machine."""

import functools
import hashlib
import http.server
import io
import multiprocessing
import shutil
import sys
import tarfile
import threading
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tools.fetch import tfds as prepare
from pcvpt.data.tools.fetch.get import Got, Manual, get, plan
from pcvpt.data.tools.fetch.sources import SOURCES, Archive, Source
from pcvpt.data.tools.fetch.staging import alone
from pcvpt.errors import UsageError

Usage = namedtuple("Usage", "total used free")
MANUAL = ["nabirds", "cars", "diabetic_retinopathy"]


class Site:
    """A web server of the files in a folder; it counts what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        handler = functools.partial(_Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.site = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def offer(self, name: str, content: bytes, **options: Any) -> Archive:
        """Put a file there and return the row that describes it."""
        (self.folder / name).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        options = {"size": len(content), "sha256": sha256, **options}
        return Archive(f"{self.url}/{name}", name, **options)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        self.server.site.asked.append(self.path.lstrip("/"))  # type: ignore[attr-defined]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "site").mkdir()
    made = Site(tmp_path / "site")
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "my data"


def _tar(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # always the same bytes
    return packed.getvalue()


def _files(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def kitti(site: Site, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Three archives that meet in the same folders, one of them needed in part."""
    images = {"training/image_2/0.png": b"0", "testing/image_2/1.png": b"1"}
    source = replace(
        SOURCES["kitti_dist"],
        archives=(
            site.offer("images.zip", _zip(images), into="Kitti/raw", only=("training",)),
            site.offer("labels.zip", _zip({"training/label_2/0.txt": b"Car"}), into="Kitti/raw"),
            site.offer(
                "devkit.tgz", _tar({"mapping/train_mapping.txt": b"m"}), into="Kitti/raw/devkit"
            ),
        ),
    )
    monkeypatch.setitem(SOURCES, "kitti_dist", source)
    return source


KITTI = {
    "Kitti/raw/training/image_2/0.png": b"0",
    "Kitti/raw/training/label_2/0.txt": b"Car",
    "Kitti/raw/devkit/mapping/train_mapping.txt": b"m",
}


def test_archives_that_meet_in_one_folder_are_put_together(
    site: Site, kitti: Source, root: Path
) -> None:
    seen: list[tuple[str, int, int | None]] = []
    got = get(TASKS["kitti_dist"], root, on_progress=lambda *now: seen.append(now))
    assert isinstance(got, Got)
    assert (got.folder, got.new) == (root / "Kitti", True)
    assert str(got) == (
        f"KITTI, distance of the nearest vehicle is in {root / 'Kitti'}. "
        f"Check it with `pcvpt data verify kitti_dist --root '{root}'`"
    )
    assert _files(root) == KITTI
    assert [path.name for path in root.iterdir()] == ["Kitti"]
    assert {what for what, _, _ in seen} == {
        f"{verb} {name}"
        for verb in ("downloading", "unpacking")
        for name in ("images.zip", "labels.zip", "devkit.tgz")
    }


def test_what_is_there_is_not_got_again(site: Site, kitti: Source, root: Path) -> None:
    get(TASKS["kitti_dist"], root)
    site.asked.clear()
    got = get(TASKS["kitti_dist"], root)
    assert isinstance(got, Got)
    assert (got.folder, got.new) == (root / "Kitti", False)
    assert "is there already" in str(got)
    assert "is there already" in plan(TASKS["kitti_dist"], root)
    assert site.asked == []


def test_two_tasks_share_one_data_set(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = SOURCES["smallnorb_azi"].holds
    archives = [site.offer(name, b"m", into="smallnorb", packed=False) for name in names]
    source = replace(SOURCES["smallnorb_azi"], archives=tuple(archives))
    for name in "smallnorb_azi", "smallnorb_ele":
        monkeypatch.setitem(SOURCES, name, source)
    first, second = get(TASKS["smallnorb_azi"], root), get(TASKS["smallnorb_ele"], root)
    assert isinstance(first, Got)
    assert isinstance(second, Got)
    assert first.folder == second.folder == root / "smallnorb"
    assert (first.new, second.new) == (True, False)
    assert sorted(_files(root / "smallnorb")) == sorted(names)


def test_an_archive_in_an_archive_is_what_is_unpacked(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = SOURCES["caltech101"].archives[0]
    inner = _tar({"101_ObjectCategories/accordion/image_0001.jpg": b"x"})
    outer = _zip({row.inner: inner, "__MACOSX/._x": b"", "caltech-101/show.m": b""})
    archive = site.offer("c.zip", outer, into=row.into, inner=row.inner)
    monkeypatch.setitem(SOURCES, "caltech101", replace(SOURCES["caltech101"], archives=(archive,)))
    get(TASKS["caltech101"], root)
    assert _files(root) == {"caltech101/101_ObjectCategories/accordion/image_0001.jpg": b"x"}


def test_archives_are_kept_if_asked_for(site: Site, kitti: Source, root: Path) -> None:
    get(TASKS["kitti_dist"], root, keep_archives=True)
    shutil.rmtree(root / "Kitti")
    site.asked.clear()
    get(TASKS["kitti_dist"], root)
    assert site.asked == []
    assert _files(root) == KITTI


def test_a_file_brought_by_hand_is_taken(site: Site, kitti: Source, root: Path) -> None:
    (site.folder / "images.zip").rename(site.folder / "elsewhere.zip")
    with pytest.raises(UsageError) as caught:
        get(TASKS["kitti_dist"], root)
    place = root / ".downloads" / "Kitti" / "images.zip"
    assert f"{site.url}/images.zip: the server answers 404" in str(caught.value)
    assert f"put it at {place}, then run `pcvpt data get kitti_dist --root '{root}'`" in str(
        caught.value
    )
    assert not (root / "Kitti").exists()
    shutil.copy(site.folder / "elsewhere.zip", place)
    get(TASKS["kitti_dist"], root)
    assert _files(root) == KITTI


def test_a_wrong_file_brought_by_hand_is_refused(site: Site, kitti: Source, root: Path) -> None:
    place = root / ".downloads" / "Kitti" / "images.zip"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x" * len((site.folder / "images.zip").read_bytes()))
    with pytest.raises(UsageError, match=r"images\.zip: its SHA-256 is"):
        get(TASKS["kitti_dist"], root)


def test_a_broken_archive_leaves_no_data_set_and_what_was_fetched(
    site: Site, kitti: Source, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = site.offer("labels.zip", _zip({"../evil": b"x"}), into="Kitti/raw")
    source = replace(kitti, archives=(kitti.archives[0], evil, kitti.archives[2]))
    monkeypatch.setitem(SOURCES, "kitti_dist", source)
    with pytest.raises(UsageError, match="would lie outside the folder"):
        get(TASKS["kitti_dist"], root)
    assert [path.name for path in root.iterdir()] == [".downloads"]
    monkeypatch.setitem(SOURCES, "kitti_dist", kitti)
    (root / ".downloads" / "Kitti" / "labels.zip").unlink()
    site.asked.clear()
    site.offer("labels.zip", _zip({"training/label_2/0.txt": b"Car"}))
    get(TASKS["kitti_dist"], root)
    assert site.asked == ["labels.zip"]
    assert _files(root) == KITTI


def test_an_interrupt_leaves_no_half_of_a_data_set(kitti: Source, root: Path) -> None:
    def stop(what: str, *_: object) -> None:
        if what == "unpacking devkit.tgz":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(TASKS["kitti_dist"], root, on_progress=stop)
    assert not (root / "Kitti").exists()
    get(TASKS["kitti_dist"], root)
    assert _files(root) == KITTI


def test_archives_that_lack_a_part_are_named(
    kitti: Source, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "kitti_dist", replace(kitti, archives=kitti.archives[:1]))
    with pytest.raises(UsageError, match=r"images\.zip: no raw/training/label_2 in what was"):
        get(TASKS["kitti_dist"], root)
    assert not (root / "Kitti").exists()


def test_half_a_data_set_that_is_there_is_named_and_left_alone(kitti: Source, root: Path) -> None:
    (root / "Kitti" / "raw" / "training" / "image_2").mkdir(parents=True)
    with pytest.raises(UsageError, match="Kitti: exists, but holds no raw/training/label_2, raw/"):
        get(TASKS["kitti_dist"], root)


def test_a_disk_without_room_is_named_before_anything_is_fetched(
    site: Site, kitti: Source, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 2, 7))
    total = sum(each.size or 0 for each in kitti.archives)
    with pytest.raises(UsageError, match=f"the data set needs {2 * total:,} bytes, but 7 are free"):
        get(TASKS["kitti_dist"], root)
    assert site.asked == []


def test_a_missing_checksum_is_said(
    kitti: Source, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tuple(replace(each, sha256=None, size=None) for each in kitti.archives)
    monkeypatch.setitem(SOURCES, "kitti_dist", replace(kitti, archives=bare))
    assert "size not published, no published checksum" in plan(TASKS["kitti_dist"], root)
    got = str(get(TASKS["kitti_dist"], root))
    assert "There is no published checksum of images.zip, labels.zip, devkit.tgz" in got


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_processes_do_not_get_in_each_others_way(root: Path) -> None:
    with alone(root):
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        other = context.Process(target=_enter, args=(root, answers))
        other.start()
        assert "another process is getting this data set" in answers.get(timeout=20)
        other.join()
    with alone(root):  # free again
        pass


def _enter(root: Path, answers: Any) -> None:
    try:
        with alone(root):
            answers.put("entered")
    except UsageError as error:
        answers.put(str(error))


@pytest.mark.parametrize("name", MANUAL)
def test_what_no_program_can_fetch_is_explained_in_steps(root: Path, name: str) -> None:
    told = get(TASKS[name], root)
    assert isinstance(told, Manual)
    text = str(told)
    assert "\n1. " in text
    assert "https://" in text
    assert "{" not in text
    assert text.endswith(f"Check it: pcvpt data verify {name} --root '{root}'")
    assert text in plan(TASKS[name], root)
    assert not root.exists()


@pytest.mark.parametrize("name", ["nabirds", "cars"])
def test_what_was_put_there_by_hand_is_found(root: Path, name: str) -> None:
    source = SOURCES[name]
    for held in source.holds:
        (root / source.folder / held).mkdir(parents=True)
    got = get(TASKS[name], root)
    assert isinstance(got, Got)
    assert (got.folder, got.new) == (root / source.folder, False)


def test_half_of_what_people_put_there_still_gives_the_steps(root: Path) -> None:
    (root / "nabirds" / "images").mkdir(parents=True)
    assert isinstance(get(TASKS["nabirds"], root), Manual)


@pytest.mark.parametrize("name", TASKS)
def test_the_plan_of_every_task_names_licence_place_and_files(root: Path, name: str) -> None:
    text = plan(TASKS[name], root)
    assert TASKS[name].licence in text
    assert str(root) in text
    assert all(each.url in text for each in SOURCES[name].archives)
    assert "{" not in text
    assert not root.exists()


@pytest.mark.parametrize(
    ("name", "via", "message"),
    [
        ("cub", "tfds", "via is 'tfds', but cub is of FGVC"),
        ("dmlab", "authors", "via is 'authors', but dmlab is read as TFDS prepares it only"),
    ],
)
def test_a_way_that_a_task_does_not_have_is_refused(
    root: Path, name: str, via: Any, message: str
) -> None:
    for function in get, plan:
        with pytest.raises(UsageError, match=message):
            function(TASKS[name], root, via=via)


class FakeTFDS:
    """What ``prepare`` uses of TensorFlow Datasets; it writes what it was called with."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
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

        return SimpleNamespace(
            data_dir=str(folder), download_and_prepare=download_and_prepare, name=name
        )


@pytest.fixture
def tfds(monkeypatch: pytest.MonkeyPatch) -> FakeTFDS:
    fake = FakeTFDS()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(prepare, "require", lambda _: None)
    monkeypatch.setattr("pcvpt.data.tools.fetch.get.require", lambda _: None)
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
    got, again = get(TASKS[name], root, via=via), get(TASKS[name], root, via=via)
    assert isinstance(got, Got)
    assert isinstance(again, Got)
    assert got.folder == again.folder == root / "tensorflow_datasets" / place
    assert (got.new, again.new) == (True, False)
    assert list(_files(root)) == [f"tensorflow_datasets/{place}/dataset_info.json"]
    assert tfds.manual is None


def test_resisc45_unpacked_by_hand_is_taken_first(root: Path) -> None:
    (root / "resisc45/NWPU-RESISC45/airplane").mkdir(parents=True)
    got = get(TASKS["resisc45"], root)
    assert isinstance(got, Got)
    assert not got.new


def test_diabetic_retinopathy_is_prepared_once_its_files_are_there(
    root: Path, tfds: FakeTFDS
) -> None:
    name = "diabetic_retinopathy"
    for held in SOURCES[name].holds:
        (root / "manual" / name / held).mkdir(parents=True)
    got = get(TASKS[name], root)
    assert isinstance(got, Got)
    assert got.folder.parts[-3:] == (
        "diabetic_retinopathy_detection",
        "btgraham-300",
        "3.0.0",
    )
    assert tfds.manual == str(root / "manual" / name)
    assert all((root / "manual" / name / held).exists() for held in SOURCES[name].holds)


def test_what_goes_wrong_in_tfds_is_told(root: Path, tfds: FakeTFDS) -> None:
    tfds.fault = AssertionError("no such split")
    with pytest.raises(UsageError, match=r"TFDS cannot prepare dmlab:2\.0\.1 .AssertionError: no"):
        get(TASKS["dmlab"], root)
    assert not (root / "tensorflow_datasets").exists()


@pytest.mark.parametrize(
    ("name", "via", "missing", "command"),
    [
        ("dmlab", None, {"tensorflow"}, "pip install tensorflow"),
        ("dmlab", None, {"tensorflow_datasets", "tensorflow"}, "'pcvpt.tfds.' tensorflow"),
        ("patch_camelyon", "tfds", {"array_record", "tensorflow"}, "install 'pcvpt.tfds.'. It"),
    ],
)
def test_packages_that_tfds_needs_are_named_before_anything_is_fetched(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    via: Any,
    missing: set[str],
    command: str,
) -> None:
    monkeypatch.setattr(
        prepare.importlib.util, "find_spec", lambda module: None if module in missing else object()
    )
    with pytest.raises(UsageError, match=command):
        get(TASKS[name], root, via=via)


@pytest.mark.parametrize("name", [row.name for row in TASKS.values() if row.tfds])
def test_tfds_still_has_the_version_that_is_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    asked: list[str] = []

    class Stop(Exception):
        pass

    def stop(builder: Any, **_: Any) -> None:
        asked.append(builder.data_dir)
        raise Stop("far enough")

    monkeypatch.setattr(prepare, "require", lambda _: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", stop)
    with pytest.raises(UsageError, match="Stop: far enough"):
        prepare.prepare(TASKS[name], root, None)
    folder = Path(asked[0])
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").touch()
    (root / "tfds").rename(root / "tensorflow_datasets")
    assert prepare.prepared(TASKS[name], root) == root / "tensorflow_datasets" / folder.relative_to(
        root / "tfds"
    )

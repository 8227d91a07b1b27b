import errno
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from pcvpt.data.tools.fetch.archives import unpack
from pcvpt.errors import UsageError

MEMBERS = {"birds/a.jpg": b"\xff" * 3000, "birds/deep/b.jpg": b"b", "notes/readme.txt": b""}
KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]
Usage = namedtuple("Usage", "total used free")


def _tar_mode(archive: Path) -> Any:
    return "w:gz" if archive.suffix in (".gz", ".tgz") else "w"


def _pack(archive: Path, members: dict[str, bytes] = MEMBERS) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in members.items():
                packed.writestr(name, data)
        return archive
    with tarfile.open(archive, _tar_mode(archive)) as packed_tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed_tar.addfile(info, io.BytesIO(data))
    return archive


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _refused(archive: Path, match: str, **options: Any) -> None:
    """Unpacking must fail with this message and leave nothing behind."""
    before = sorted(archive.parent.iterdir())
    with pytest.raises(UsageError, match=match):
        unpack(archive, archive.parent / "out", **options)
    assert sorted(archive.parent.iterdir()) == before


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_is_unpacked(tmp_path: Path, name: str) -> None:
    seen: list[tuple[int, int | None]] = []
    out = unpack(
        _pack(tmp_path / name), tmp_path / "out", on_progress=lambda *now: seen.append(now)
    )
    assert _contents(out) == MEMBERS
    assert seen
    assert all(done <= (total or 0) == (tmp_path / name).stat().st_size for done, total in seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out"])


def test_a_gz_of_a_single_file_gets_the_name_without_gz(tmp_path: Path) -> None:
    (tmp_path / "x.h5.gz").write_bytes(gzip.compress(b"content"))
    assert _contents(unpack(tmp_path / "x.h5.gz", tmp_path / "out")) == {"x.h5": b"content"}


@pytest.mark.parametrize("name", KINDS)
def test_only_the_members_asked_for_are_unpacked(tmp_path: Path, name: str) -> None:
    members = {**MEMBERS, "birdsong/c.ogg": b"c", "notes/other.txt": b"o"}
    archive = _pack(tmp_path / name, members)
    out = unpack(archive, tmp_path / "out", restrict=["birds", "notes/other.txt"])
    assert sorted(_contents(out)) == ["birds/a.jpg", "birds/deep/b.jpg", "notes/other.txt"]


def test_a_member_asked_for_that_is_not_there_is_named(tmp_path: Path) -> None:
    _refused(_pack(tmp_path / "a.zip"), r"a\.zip: nothing in it is called fish", restrict=["fish"])


def test_a_dot_before_names_does_not_count(tmp_path: Path) -> None:
    archive = _pack(tmp_path / "a.tar", {"./birds/a.jpg": b"a"})
    out = unpack(archive, tmp_path / "out", restrict=["birds"])
    assert _contents(out) == {"birds/a.jpg": b"a"}


def test_of_members_of_the_same_name_the_last_remains(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for data in b"first and longer", b"last":
            info = tarfile.TarInfo("x")
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    assert _contents(unpack(tmp_path / "a.tar", tmp_path / "out")) == {"x": b"last"}


def test_folders_of_the_archive_are_made_even_if_empty(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        info = tarfile.TarInfo("empty")
        info.type = tarfile.DIRTYPE
        packed.addfile(info)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as packed_zip:
        packed_zip.writestr("empty/", b"")
    for name in "a.tar", "b.zip":
        assert (unpack(tmp_path / name, tmp_path / f"{name}.out") / "empty").is_dir()


def test_an_existing_target_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    _refused(_pack(tmp_path / "a.zip"), "out: exists already; move it away")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["../evil", "birds/../../evil", "/tmp/evil", "C:/evil", "c:evil", "..\\evil", "birds/.."],
)
def test_a_member_that_would_leave_the_folder_is_refused(
    tmp_path: Path, kind: str, name: str
) -> None:
    (tmp_path / "inside").mkdir()
    _refused(_pack(tmp_path / "inside" / kind, {"x": b"x", name: b"evil"}), "outside the folder")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["", ".", "./"])
def test_a_member_without_a_name_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        info = tarfile.TarInfo(name)
        info.size = 1
        packed.addfile(info, io.BytesIO(b"x"))
    _refused(tmp_path / "a.tar", "has no name|damaged")


def test_a_name_cut_at_a_null_byte_is_refused(tmp_path: Path) -> None:
    _pack(tmp_path / "a.zip", {"name#hidden": b"x"})
    content = (tmp_path / "a.zip").read_bytes().replace(b"#", b"\0")
    (tmp_path / "a.zip").write_bytes(content)
    _refused(tmp_path / "a.zip", "outside the folder|damaged")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_links_devices_and_pipes_of_a_tar_are_refused(
    tmp_path: Path, name: str, kind: bytes
) -> None:
    with tarfile.open(tmp_path / name, _tar_mode(tmp_path / name)) as packed:
        packed.addfile(tarfile.TarInfo("ok"), io.BytesIO())
        info = tarfile.TarInfo("strange")
        info.type, info.linkname = kind, "ok"
        packed.addfile(info)
    _refused(tmp_path / name, "its member 'strange' is a link or no file")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_of_a_zip_are_refused(tmp_path: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        info = zipfile.ZipInfo("strange")
        info.external_attr = (kind | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    _refused(tmp_path / "a.zip", "its member 'strange' is a link or no file")


def test_a_link_that_is_not_asked_for_does_no_harm(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        packed.addfile(link)
        packed.addfile(tarfile.TarInfo("birds/x"), io.BytesIO())
    out = unpack(tmp_path / "a.tar", tmp_path / "out", restrict=["birds"])
    assert _contents(out) == {"birds/x": b""}


def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    _refused(_pack(tmp_path / "a.tar", {"x": b"x", "x/y": b"y"}), "cannot be read or written")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mode", [0o7777, 0o000])
def test_permissions_are_those_of_new_files(tmp_path: Path, mode: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        info = tarfile.TarInfo("x")
        info.mode = mode
        packed.addfile(info, io.BytesIO())
    (tmp_path / "new").touch()
    (tmp_path / "folder").mkdir()
    out = unpack(tmp_path / "a.tar", tmp_path / "out")
    assert (out / "x").stat().st_mode == (tmp_path / "new").stat().st_mode
    assert out.stat().st_mode == (tmp_path / "folder").stat().st_mode


@pytest.mark.parametrize("name", [*KINDS, "a.h5.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_an_archive_cut_short_is_named(tmp_path: Path, name: str, kept: float) -> None:
    archive = tmp_path / name
    noise = os.urandom(20000)
    if name == "a.h5.gz":
        archive.write_bytes(gzip.compress(noise))
    else:
        _pack(archive, {"x": noise, "y": noise})
    whole = archive.read_bytes()
    content = len(whole.rstrip(b"\0"))  # a tar ends in padding
    archive.write_bytes(whole[: int(kept * content)])
    _refused(archive, rf"{name}: damaged or cut short")


def test_a_tar_cut_between_two_members_is_named(tmp_path: Path) -> None:
    archive = _pack(tmp_path / "a.tar", {"x": b"x" * 512, "y": b"y" * 512})
    archive.write_bytes(archive.read_bytes()[:1024])  # the header and content of x
    _refused(archive, "cut short .it has no end")


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.h5.gz"])
def test_a_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    noise = os.urandom(20000)
    if name == "a.h5.gz":
        archive.write_bytes(gzip.compress(noise))
    else:
        _pack(archive, {"x": noise})
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    _refused(archive, "damaged or cut short")


def test_the_checksum_after_the_last_member_of_a_tgz_is_read(tmp_path: Path) -> None:
    archive = _pack(tmp_path / "a.tgz")
    data = bytearray(archive.read_bytes())
    data[-8] ^= 1  # gzip's own CRC
    archive.write_bytes(data)
    _refused(archive, "damaged or cut short .CRC check failed")


@pytest.mark.parametrize("name", [*KINDS, "a.gz"])
@pytest.mark.parametrize("content", [b"<html>Log in</html>" * 100, b"\0" * 5000])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    _refused(tmp_path / name, rf"{name}: damaged or cut short")


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    archive = _pack(tmp_path / "a.zip", {"x": b"x"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # in the local header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    _refused(archive, "its member 'x' is encrypted")


def test_a_rar_and_a_missing_archive_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    _refused(tmp_path / "a.rar", r"a\.rar: not a kind of archive")
    _refused(tmp_path / "b.zip", r"b\.zip: ")


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.h5.gz"])
def test_what_would_fill_the_disk_is_not_unpacked(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / name
    if name == "a.h5.gz":
        archive.write_bytes(gzip.compress(bytes(5 << 20)))
    else:
        _pack(archive, {"x": bytes(5 << 20)})
    free = (64 << 20) + (3 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))
    _refused(archive, "no room to unpack")


def test_a_disk_that_fills_up_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = _pack(tmp_path / "a.zip")
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode == "wb":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", full)
    _refused(archive, "the disk is full")


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(_pack(tmp_path / "a.zip"), tmp_path / "out", on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]

import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniature.archives import pack, tar, zipped
from miniature.reading import contents
from pcvpt.data.tools.fetch.archives import unpack
from pcvpt.errors import UsageError

MEMBERS = {"birds/a.jpg": b"\xff" * 3000, "birds/deep/b.jpg": b"b", "notes/readme.txt": b""}
KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]
NOISE = np.random.default_rng(0).bytes(20000)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def _write(out: Path, name: str, content: bytes) -> Path:
    archive = out.parent / name
    archive.write_bytes(content)
    return archive


def _refused(archive: Path, match: str, **options: Any) -> None:
    """Unpacking must fail with this message and write nothing outside its folder."""
    before = sorted(archive.parent.iterdir())
    with pytest.raises(UsageError, match=rf"{archive.name}: .*{match}"):
        unpack(archive, archive.parent / "out", **options)
    assert sorted(archive.parent.iterdir()) == before


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_is_unpacked(out: Path, name: str) -> None:
    unpack(_write(out, name, pack(name, MEMBERS)), out)
    assert contents(out) == MEMBERS


def test_a_gz_of_a_single_file_gets_the_name_without_gz(out: Path) -> None:
    unpack(_write(out, "x.h5.gz", pack("x.h5.gz", {"": b"content"})), out)
    assert contents(out) == {"x.h5": b"content"}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("member", "there"),
    [("birds", ["birds/a.jpg", "birds/deep/b.jpg"]), ("notes/other.txt", ["notes/other.txt"])],
)
def test_only_the_wanted_member_is_unpacked(
    out: Path, name: str, member: str, there: list[str]
) -> None:
    members = {**MEMBERS, "birdsong/c.ogg": b"c", "notes/other.txt": b"o"}
    archive = _write(out, name, pack(name, members))
    unpack(archive, out, member)
    assert sorted(contents(out)) == there
    _refused(archive, "fish", member="fish")


def test_a_dot_before_names_does_not_count_and_empty_folders_are_made(out: Path) -> None:
    unpack(_write(out, "a.tar", tar({"./birds/a.jpg": b"a", "./birds/empty": None})), out, "birds")
    assert contents(out) == {"birds/a.jpg": b"a"}
    assert (out / "birds" / "empty").is_dir()


@pytest.mark.parametrize("kind", ["a.zip", "a.tgz"])
@pytest.mark.parametrize(
    "name",
    ["../evil", "birds/../../evil", "/tmp/evil", "C:/evil", "c:evil", "..\\evil", "birds/.."],
)
def test_a_member_that_would_leave_the_folder_is_refused(out: Path, kind: str, name: str) -> None:
    _refused(_write(out, kind, pack(kind, {"x": b"x", name: b"evil"})), "outside the folder")


def test_a_name_that_hides_its_end_is_refused(out: Path) -> None:
    content = zipped({"name#hidden": b"x"}).replace(b"#", b"\0")
    _refused(_write(out, "a.zip", content), "outside the folder|damaged")
    _refused(_write(out, "a.tar", tar({"./": b"x"})), "cannot be unpacked|damaged")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("a.tar", tar({"ok": b"", "strange": b""}, type=kind, linkname="ok"))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
        ),
        ("a.zip", zipped({"strange": b"/etc/passwd"}, stat.S_IFLNK)),
        ("a.zip", zipped({"strange": b""}, stat.S_IFCHR)),
    ],
)
def test_links_and_devices_are_refused_where_they_are_wanted(
    out: Path, name: str, content: bytes
) -> None:
    archive = _write(out, name, content)
    _refused(archive, "'strange' is a link or a device")
    if name == "a.tar":
        unpack(archive, out, "ok")
        assert contents(out) == {"ok": b""}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mode", [0o7777, 0o000])
def test_no_file_gets_special_permissions(out: Path, mode: int) -> None:
    unpack(_write(out, "a.tar", tar({"x": b""}, mode=mode)), out)
    assert (out / "x").stat().st_mode & 0o7022 == 0
    assert (out / "x").read_bytes() == b""


def _cut(kept: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(kept * len(content.rstrip(b"\0")))]


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        *((name, _cut(kept)) for name in (*KINDS, "a.h5.gz") for kept in (0.0, 0.1, 0.5, 0.9)),
        *((name, _flip) for name in ("a.zip", "a.h5.gz")),
        *((name, lambda _: b"<html>Log in</html>" * 100) for name in (*KINDS, "a.gz")),
    ],
)
def test_a_damaged_archive_is_named(out: Path, name: str, spoil: Callable[[bytes], bytes]) -> None:
    _refused(_write(out, name, spoil(pack(name, {"x": NOISE, "y": NOISE}))), "damaged|not hold")


def test_what_cannot_be_unpacked_is_named(out: Path) -> None:
    _refused(_write(out, "a.rar", b"Rar!"), r"\.zip, \.tar")
    _refused(out.parent / "b.zip", "No such file")
    _refused(_write(out, "a.tar", tar({"x": b"x", "x/y": b"y"})), "cannot be unpacked")
    _refused(_write(out, "zeros.tar", b"\0" * 5000), "does not hold any file")
    encrypted = bytearray(zipped({"x": b"x"}))
    encrypted[6] |= 1  # in the local header and in the directory
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    _refused(_write(out, "a.zip", bytes(encrypted)), "encrypted")


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_what_would_fill_the_disk_is_not_unpacked(
    out: Path, name: str, set_free: Callable[[int], None]
) -> None:
    set_free(7)
    archive = _write(out, name, pack(name, {"x": NOISE}))
    with pytest.raises(UsageError, match=rf"unpacking {name} needs 20,000 bytes, but 7 are free"):
        unpack(archive, out)
    assert contents(out) == {}


def test_a_python_that_cannot_unpack_safely_is_named(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    _refused(_write(out, "a.tar", tar(MEMBERS)), r"Python 3\..*needs 3\.10\.12")

import hashlib
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from miniature.site import Site
from pcvpt.data.tools.fetch.download import download
from pcvpt.errors import UsageError

CONTENT = bytes(range(256)) * 4000  # several reads of a socket
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
NAME = "file.bin"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are not made here."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


@pytest.fixture
def url(site: Site) -> str:
    return site.offer(NAME, CONTENT).url


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "sub" / NAME


def _part(target: Path) -> Path:
    return target.with_name(f"{NAME}.part")


def _leave_part(target: Path, content: bytes) -> None:
    target.parent.mkdir()
    _part(target).write_bytes(content)


@pytest.mark.parametrize(
    ("checksum", "size", "length"),
    [(SHA256, SIZE, True), (MD5, None, True), (SHA256.upper(), SIZE, False), (MD5, None, False)],
)
def test_a_file_is_downloaded_and_nothing_else_remains(
    site: Site, url: str, target: Path, checksum: str, size: int | None, length: bool
) -> None:
    site.length = length
    seen: list[tuple[int, int | None]] = []
    total = SIZE if length else size
    assert download(url, target, checksum, size, lambda *now: seen.append(now)) == target
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [NAME]
    assert seen[0] == (0, total)
    assert seen[-1] == (SIZE, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert download(url, target, checksum, size) == target
    assert len(site.asked) == 1
    empty = site.offer("empty", b"")
    assert download(empty.url, target.with_name("empty"), empty.checksum).read_bytes() == b""


@pytest.mark.parametrize(
    ("checksum", "size", "message"),
    [
        ("0" * 64, None, f"its SHA-256 is {SHA256}, but {'0' * 64}"),
        ("0" * 32, None, f"its MD5 is {MD5}, but {'0' * 32}"),
        (SHA256, 7, "it has 1,024,000 bytes, but 7"),
    ],
)
def test_a_wrong_file_that_exists_is_named_and_kept(
    site: Site, url: str, target: Path, checksum: str, size: int | None, message: str
) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    with pytest.raises(UsageError, match=rf"file\.bin: {message}"):
        download(url, target, checksum, size)
    assert target.read_bytes() == CONTENT
    assert site.asked == []


@pytest.mark.parametrize("length", [True, False])
def test_a_cut_connection_is_resumed(
    site: Site, url: str, target: Path, pauses: list[float], length: bool
) -> None:
    site.cuts, site.length = [1000, 5000, 0, 70000], length
    download(url, target, SHA256, SIZE)
    assert target.read_bytes() == CONTENT
    starts = ["bytes=1000-", "bytes=6000-", "bytes=6000-", "bytes=76000-"]
    assert site.starts == [None, *starts]
    assert pauses == [1.0, 1.0, 2.0, 1.0]


def test_a_connection_that_is_always_cut_is_given_up_and_the_part_kept(
    site: Site, url: str, target: Path, pauses: list[float]
) -> None:
    site.cuts = [1000] + [0] * 10
    with pytest.raises(UsageError, match=r"cut after 1,000 of 1,024,000 bytes\), 5 times in a row"):
        download(url, target, SHA256)
    assert _part(target).read_bytes() == CONTENT[:1000]
    assert pauses == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("part", "size", "ranges", "starts"),
    [
        (CONTENT[:300_000], None, True, ["bytes=300000-"]),
        (CONTENT[:300_000], None, False, ["bytes=300000-"]),  # the server sends all again
        (CONTENT, SIZE, True, []),
        (CONTENT, None, True, []),
        *((CONTENT + b"more", size, True, [f"bytes={SIZE + 4}-", None]) for size in (SIZE, None)),
        (b"x" * 1000, None, True, ["bytes=1000-", None]),  # of another version
    ],
)
def test_the_part_of_an_earlier_call_is_completed(
    site: Site,
    url: str,
    target: Path,
    part: bytes,
    size: int | None,
    ranges: bool,
    starts: list[str | None],
) -> None:
    site.ranges = ranges
    _leave_part(target, part)
    download(url, target, SHA256, size)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [NAME]
    assert site.starts == starts


def test_an_interrupt_keeps_the_part_for_the_next_call(site: Site, url: str, target: Path) -> None:
    def stop(done: int, _: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(url, target, SHA256, on_progress=stop)
    there = _part(target).read_bytes()
    assert there
    download(url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert site.starts[1] == f"bytes={len(there)}-"


@pytest.mark.parametrize("checksum", ["0" * 64, "0" * 32])
@pytest.mark.parametrize("part", [0, 1000])
def test_a_wrong_checksum_is_named_and_the_file_removed(
    site: Site, url: str, target: Path, checksum: str, part: int
) -> None:
    if part:
        _leave_part(target, CONTENT[:part])
    with pytest.raises(UsageError, match=f"{re.escape(url)}: its .* is .*, but {checksum}"):
        download(url, target, checksum)
    assert list(target.parent.iterdir()) == []
    assert len(site.asked) == (2 if part else 1)


@pytest.mark.parametrize(
    ("codes", "location", "size", "message", "asked"),
    [
        *(([code] * 2, "", None, f"the server answers {code}", 1) for code in (400, 401, 404, 416)),
        ([503] * 9, "", None, "answers 503.*5 times in a row", 5),
        ([302], "file:///etc/passwd", None, "", 1),  # a redirection leads only to the web
        ([], "", 39_077_296_924, "1,024,000 bytes, but 39,077,296,924", 1),
    ],
)
def test_what_a_server_does_not_give_is_named(
    site: Site,
    url: str,
    target: Path,
    codes: list[int],
    location: str,
    size: int | None,
    message: str,
    asked: int,
) -> None:
    site.codes, site.headers = codes, {"Location": location} if location else {}
    with pytest.raises(UsageError, match=f"{re.escape(url)}: .*{message}"):
        download(url, target, SHA256, size)
    assert len(site.asked) == asked


def test_a_busy_server_is_asked_again(
    site: Site, url: str, target: Path, pauses: list[float]
) -> None:
    site.codes = [500, 502, 504, 408]
    download(url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_a_redirection_is_followed_with_the_range(site: Site, url: str, target: Path) -> None:
    _leave_part(target, CONTENT[:1000])
    site.codes, site.headers = [302], {"Location": url}
    download(url, target, SHA256)
    assert site.starts == ["bytes=1000-"] * 2


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ssl.SSLCertVerificationError("self-signed"), "self-signed.*the clock"),
        (ConnectionResetError(104, "Connection reset by peer"), "reset by peer.*5 times in a row"),
    ],
)
def test_what_fails_on_the_network_is_named(
    target: Path, monkeypatch: pytest.MonkeyPatch, reason: Any, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError(reason)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", fail)
    with pytest.raises(UsageError, match=rf"https://example\.org/x: .*{message}"):
        download("https://example.org/x", target, SHA256)


def test_a_disk_without_room_is_named_beforehand(
    url: str, target: Path, set_free: Callable[[int], None]
) -> None:
    _leave_part(target, CONTENT[:24_000])
    set_free(7)
    with pytest.raises(UsageError, match=r"needs 1,000,000 bytes, but 7 are free"):
        download(url, target, SHA256)
    assert _part(target).stat().st_size == 24_000


def test_a_folder_that_cannot_be_made_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be read or written"):
        download(url, tmp_path / "file" / "x", SHA256)

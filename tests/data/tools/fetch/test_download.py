import errno
import hashlib
import http.server
import re
import shutil
import socket
import ssl
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from pcvpt.data.tools.fetch import download as module
from pcvpt.data.tools.fetch.download import download
from pcvpt.data.tools.fetch.partial_file import PartialFile
from pcvpt.errors import UsageError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
Usage = namedtuple("Usage", "total used free")


class Site:
    """A web server of one file, and all that may be wrong with one."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag = '"one"'
        self.modified = ""
        self.ranges = True
        self.length = True
        self.cuts: list[int] = []  # bytes that each of the next answers sends before it breaks off
        self.codes: list[int] = []  # of the next answers; then the file
        self.headers: dict[str, str] = {}  # of an error
        self.asked: list[dict[str, str]] = []
        handler = type("Handler", (_Handler,), {"site": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/file.bin"


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.asked.append(dict(self.headers))
        if site.codes:
            self.send_response(site.codes.pop(0))
            for name, value in site.headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        start = self._start()
        if start >= len(site.content) > 0:
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            last = len(site.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        if site.length:
            self.send_header("Content-Length", str(len(site.content) - start))
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.modified:
            self.send_header("Last-Modified", site.modified)
        self.end_headers()
        sent = site.cuts.pop(0) if site.cuts else len(site.content)
        self.wfile.write(site.content[start : start + sent])

    def _start(self) -> int:
        site = self.site
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        mark = self.headers.get("If-Range")
        same = mark is None or mark in (site.etag, site.modified)
        return int(found[1]) if found and site.ranges and same else 0

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Site()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are not made here."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "file.bin"


def _leave_part(target: Path, content: bytes, version: str = '"one"') -> None:
    target.parent.mkdir(exist_ok=True)
    target.with_name("file.bin.part").write_bytes(content)
    if version:
        target.with_name("file.bin.part.version").write_text(version)


def _names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_is_fetched_and_nothing_else_remains(site: Site, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    options: dict[str, Any] = {"on_progress": lambda *now: seen.append(now)}
    assert download(site.url, target, SHA256, MD5, len(CONTENT), **options) == target
    assert target.read_bytes() == CONTENT
    assert _names(target) == ["file.bin"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_without_any_checksum_a_file_is_fetched_too(site: Site, target: Path) -> None:
    site.length = False
    seen: list[tuple[int, int | None]] = []
    download(site.url, target, on_progress=lambda *now: seen.append(now))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), None)


def test_an_empty_file_is_fetched(site: Site, target: Path) -> None:
    site.content = b""
    assert download(site.url, target).read_bytes() == b""


def test_a_file_that_is_there_is_not_fetched_again(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    download(site.url, target, SHA256, MD5, len(CONTENT))
    assert site.asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sha256": "0" * 64}, f"its SHA-256 is {SHA256}, but {'0' * 64} is published"),
        ({"md5": "0" * 32}, f"its MD5 is {MD5}, but {'0' * 32} is published"),
        ({"size": 7}, "it has 1,024,000 bytes, but 7 are published"),
    ],
)
def test_a_wrong_file_that_is_there_is_named_and_kept(
    site: Site, target: Path, options: dict[str, Any], message: str
) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    with pytest.raises(UsageError, match=rf"file\.bin: {message}; move it away"):
        download(site.url, target, **options)
    assert target.read_bytes() == CONTENT
    assert site.asked == []


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_a_cut_connection_is_taken_up_where_it_broke(
    site: Site, target: Path, checksum: str | None, pauses: list[float]
) -> None:
    site.cuts = [1000, 5000, 0, 70000]
    download(site.url, target, checksum)
    assert target.read_bytes() == CONTENT
    starts = [each.get("Range") for each in site.asked]
    assert starts == [None, "bytes=1000-", "bytes=6000-", "bytes=6000-", "bytes=76000-"]
    assert [each.get("If-Range") for each in site.asked[1:]] == ['"one"'] * 4
    assert pauses == [1.0, 1.0, 2.0, 1.0]


def test_a_cut_without_a_stated_length_shows_by_the_published_size(
    site: Site, target: Path
) -> None:
    site.length, site.cuts = False, [1000]
    download(site.url, target, size=len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_a_connection_that_is_always_cut_is_given_up_and_the_part_kept(
    site: Site, target: Path, pauses: list[float]
) -> None:
    site.cuts = [1000] + [0] * 10
    with pytest.raises(UsageError, match=r"cut after 1,000 of 1,024,000 bytes, 5 times in a row"):
        download(site.url, target, SHA256)
    assert target.with_name("file.bin.part").read_bytes() == CONTENT[:1000]
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_the_part_of_an_earlier_call_is_continued(site: Site, target: Path) -> None:
    _leave_part(target, CONTENT[:300_000])
    seen: list[tuple[int, int | None]] = []
    download(site.url, target, SHA256, on_progress=lambda *now: seen.append(now))
    assert target.read_bytes() == CONTENT
    assert site.asked[0]["Range"] == "bytes=300000-"
    assert seen[0] == (300_000, len(CONTENT))
    assert _names(target) == ["file.bin"]


def test_an_interrupt_keeps_the_part_for_the_next_call(site: Site, target: Path) -> None:
    def stop(done: int, _: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(site.url, target, SHA256, on_progress=stop)
    there = target.with_name("file.bin.part").read_bytes()
    assert there
    assert CONTENT.startswith(there)
    download(site.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert site.asked[1]["Range"] == f"bytes={len(there)}-"


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_whole_part_needs_no_server(site: Site, target: Path, size: int | None) -> None:
    _leave_part(target, CONTENT, version="")
    download(site.url, target, SHA256, size=size)
    assert target.read_bytes() == CONTENT
    assert site.asked == []


def test_a_server_that_does_not_resume_sends_all_again(site: Site, target: Path) -> None:
    site.ranges = False
    _leave_part(target, CONTENT[:300_000])
    download(site.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert len(site.asked) == 1


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_longer_than_the_file_is_dropped(site: Site, target: Path, size: int | None) -> None:
    _leave_part(target, CONTENT + b"more")
    download(site.url, target, SHA256, size=size)
    assert target.read_bytes() == CONTENT


def test_a_server_that_never_goes_on_is_given_up(site: Site, target: Path) -> None:
    site.codes = [416] * 20
    _leave_part(target, CONTENT[:1000])
    with pytest.raises(UsageError, match="answers 416"):
        download(site.url, target, SHA256)


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_a_file_that_changed_in_between_is_not_joined(
    site: Site, target: Path, checksum: str | None
) -> None:
    _leave_part(target, b"x" * 1000, version='"zero"')
    download(site.url, target, checksum)
    assert target.read_bytes() == CONTENT
    assert site.asked[0]["If-Range"] == '"zero"'


def test_a_weak_mark_is_passed_over_for_the_date(site: Site, target: Path) -> None:
    site.etag, site.modified = 'W/"one"', "Mon, 01 Jan 2024 00:00:00 GMT"
    site.cuts = [1000]
    download(site.url, target)
    assert site.asked[1]["If-Range"] == site.modified
    assert target.read_bytes() == CONTENT


def test_without_a_mark_the_checksum_shows_a_wrong_joint_and_all_is_fetched_anew(
    site: Site, target: Path
) -> None:
    site.etag = ""
    _leave_part(target, b"x" * 1000, version="")
    download(site.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert [each.get("Range") for each in site.asked] == ["bytes=1000-", None]


def test_without_mark_and_checksum_a_part_is_not_trusted(site: Site, target: Path) -> None:
    site.etag = ""
    _leave_part(target, CONTENT[:1000], version="")
    download(site.url, target)
    assert target.read_bytes() == CONTENT
    assert [each.get("Range") for each in site.asked] == [None]


@pytest.mark.parametrize("mark", ["\x00\x07", "a\r\nHost: evil", "ä", ""])
def test_a_spoilt_mark_does_no_harm(site: Site, target: Path, mark: str) -> None:
    _leave_part(target, CONTENT[:1000], version="x")
    target.with_name("file.bin.part.version").write_bytes(mark.encode())
    download(site.url, target, SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sha256": "0" * 64}, f"its SHA-256 is {SHA256}, but {'0' * 64} is published"),
        ({"sha256": SHA256, "md5": "0" * 32}, f"its MD5 is {MD5}, but {'0' * 32} is published"),
    ],
)
@pytest.mark.parametrize("part", [0, 1000])
def test_a_wrong_checksum_is_named_and_the_file_removed(
    site: Site, target: Path, options: dict[str, Any], message: str, part: int
) -> None:
    if part:
        _leave_part(target, CONTENT[:part])
    with pytest.raises(UsageError, match=rf"{re.escape(site.url)}: {message}"):
        download(site.url, target, **options)
    assert _names(target) == []
    assert len(site.asked) == (2 if part else 1)


def test_a_server_that_offers_another_length_is_not_listened_to(site: Site, target: Path) -> None:
    with pytest.raises(UsageError, match=r"offers 1,024,000 bytes, but 39,077,296,924 are publi"):
        download(site.url, target, SHA256, size=39_077_296_924)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (404, "answers 404 .Not Found.; the file has moved or is gone; look at the homepage"),
        (403, "answers 403 .Forbidden.; it wants a login or refuses this network"),
        (401, "answers 401 .Unauthorized.; it asks for a login"),
        (400, "answers 400 .Bad Request.; look at it in a browser"),
    ],
)
def test_what_the_server_does_not_have_is_named_at_once(
    site: Site, target: Path, code: int, message: str
) -> None:
    site.codes = [code] * 2
    with pytest.raises(UsageError, match=f"{re.escape(site.url)}: the server {message}"):
        download(site.url, target)
    assert len(site.asked) == 1


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 408])
def test_a_busy_server_is_asked_again(
    site: Site, target: Path, code: int, pauses: list[float]
) -> None:
    site.codes, site.headers = [code] * 4, {"Retry-After": "7"}
    download(site.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert pauses == [7.0, 7.0, 7.0, 8.0]


def test_no_server_makes_anyone_wait_for_hours(
    site: Site, target: Path, pauses: list[float]
) -> None:
    site.codes, site.headers = [503], {"Retry-After": "86400"}
    download(site.url, target, SHA256)
    assert pauses == [60.0]


def test_a_server_that_stays_busy_is_given_up(site: Site, target: Path) -> None:
    site.codes = [503] * 9
    with pytest.raises(UsageError, match=r"answers 503 .Service Unavailable., 5 times in a row"):
        download(site.url, target)
    assert len(site.asked) == 5


def test_a_redirection_is_followed_with_the_range(site: Site, target: Path) -> None:
    _leave_part(target, CONTENT[:1000])
    site.codes, site.headers = [302], {"Location": site.url}
    download(site.url, target, SHA256)
    assert [each["Range"] for each in site.asked] == ["bytes=1000-"] * 2


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirection_leads_to_nothing_but_the_web(site: Site, target: Path, place: str) -> None:
    site.codes, site.headers = [302], {"Location": place}
    with pytest.raises(UsageError, match=re.escape(site.url)):
        download(site.url, target)


def test_nobody_at_the_address_is_named(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    with pytest.raises(UsageError, match=r"Connection refused.*5 times in a row"):
        download(url, target)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the host example.org is not known"),
        (ssl.SSLCertVerificationError("self-signed"), "the certificate is not trusted"),
        ("no host given", "cannot be fetched .no host given"),
        (TimeoutError("timed out"), "timed out.*5 times in a row"),
        (ConnectionResetError(104, "Connection reset by peer"), "reset by peer.*5 times in a row"),
    ],
)
def test_what_fails_on_the_network_is_named(
    target: Path, monkeypatch: pytest.MonkeyPatch, reason: Any, message: str
) -> None:
    class Opener:
        def open(self, *_: object, **__: object) -> None:
            raise URLError(reason)

    if isinstance(reason, ssl.SSLCertVerificationError):
        reason.verify_message = "self-signed"
    monkeypatch.setattr(module, "_opener", Opener)
    with pytest.raises(UsageError, match=rf"https://example\.org/x: .*{message}"):
        download("https://example.org/x", target)


@pytest.mark.parametrize(
    "url", ["ftp://example.org/x", "file:///etc/passwd", "data.zip", "http:///x", "http://[/x"]
)
def test_an_address_that_makes_no_sense_is_named(target: Path, url: str) -> None:
    with pytest.raises(UsageError, match=re.escape(url)):
        download(url, target)


def test_a_disk_without_room_is_named_beforehand(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave_part(target, CONTENT[:24_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 3, 7))
    with pytest.raises(UsageError, match=r"needs 1,000,000 bytes, but 7 are free"):
        download(site.url, target, SHA256)


def test_a_disk_that_fills_up_is_named_and_the_part_kept(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = PartialFile.append

    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    def fill(part: PartialFile, chunk: bytes) -> None:
        if part.length:
            part._file.close()
            monkeypatch.setattr(part, "_file", Full())
        append(part, chunk)

    monkeypatch.setattr(PartialFile, "append", fill)
    with pytest.raises(UsageError, match=r"file\.bin\.part: the disk is full"):
        download(site.url, target, SHA256)
    assert target.with_name("file.bin.part").stat().st_size > 0


def test_a_folder_that_cannot_be_made_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be read or written"):
        download(site.url, tmp_path / "file" / "x")

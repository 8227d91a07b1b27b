"""One file from the web: resumed where it stopped, and checked by its published checksum."""

import hashlib
import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from typing_extensions import Never, override

from pcvpt.data.tools.disk import OnBytes, check_space, disk_errors, silent
from pcvpt.errors import UsageError

_CHUNK = 1 << 20  # bytes
_FAILURES = 5  # in a row, none of which brought a byte, before the download is given up
_TIMEOUT = 60.0  # seconds without a byte
_LONGEST_PAUSE = 60.0  # seconds
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_REMEDIES = {
    401: "it asks for a login, so download the file in a browser",
    403: "it wants a login or refuses this network; download the file in a browser",
    404: "the file has moved or is gone; see the homepage of the data set",
}


class _Interrupted(Exception):
    """A failure that another attempt may overcome, after ``pause`` seconds or a few more."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _NoFTP(request.FTPHandler):
    """Takes the place of urllib's own, so that redirections lead only to http and https."""

    @override
    def ftp_open(self, req: request.Request) -> Never:
        raise URLError("not an address of the web")


def download(
    url: str,
    target: Path,
    checksum: str,
    size: int | None = None,
    on_progress: OnBytes = silent,
) -> Path:
    """Download ``url`` to ``target``, unless it exists already, and return ``target``.

    What has arrived lies in ``<target>.part``, where the next call resumes, also after an
    interrupt. If the result has a wrong checksum, a part of an earlier call may have been of
    another version, so it is downloaded once more from the beginning. Lost connections and busy
    servers are tried again a few times, with growing pauses.

    Args:
        url: Address, http or https. Proxies are taken from the environment, as urllib does.
        target: Path of the file. Missing folders are made.
        checksum: SHA-256 or MD5 of the file, in hexadecimal.
        size: Size of the file in bytes. None where it is not published.

    Raises:
        UsageError: Naming the address and a remedy, if the server does not have the file or
            cannot be reached, if the checksum is wrong (the part is then removed), or if the disk
            is full.
    """
    if not re.match(r"https?://", url, re.IGNORECASE):
        raise UsageError(f"{url}: only http and https are supported; correct the address")
    if target.exists():
        if fault := _fault(target, checksum, size):
            raise UsageError(f"{target}: {fault}; move it away, and it is downloaded again")
        return target
    part = target.with_name(f"{target.name}.part")
    with disk_errors(part):
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        if resumed and size is not None and part.stat().st_size > size:
            part.unlink()
            resumed = False
    fault = _fault(part, checksum, size) if resumed else "missing"
    if fault:
        _complete(url, part, size, on_progress)
        fault = _fault(part, checksum, size)
    if fault and resumed:
        part.unlink()
        _complete(url, part, size, on_progress)
        fault = _fault(part, checksum, size)
    if fault:
        part.unlink()
        raise UsageError(
            f"{url}: {fault}; the file was removed. Run it again; if that does not help, the "
            "file has changed at its source or on the way"
        )
    with disk_errors(target):
        return part.replace(target)


def kind_of(checksum: str) -> str:
    """Return the name of a checksum's algorithm, SHA-256 or MD5."""
    # MD5 here finds accidents; it is used only where no SHA-256 is published.
    return "SHA-256" if len(checksum) == 64 else "MD5"


def _fault(path: Path, checksum: str, size: int | None) -> str:
    """Return in what a file differs from what is published. Empty if in nothing."""
    with disk_errors(path), path.open("rb") as file:
        length = path.stat().st_size
        if size is not None and length != size:
            return f"it has {length:,} bytes, but {size:,} are published"
        hashed = hashlib.new(kind_of(checksum).replace("-", ""), usedforsecurity=False)
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
    if hashed.hexdigest() == checksum.lower():
        return ""
    return f"its {kind_of(checksum)} is {hashed.hexdigest()}, but {checksum} is published"


def _complete(url: str, part: Path, size: int | None, on_progress: OnBytes) -> None:
    """Make the part as long as the file, in several attempts if need be."""
    failures = 0
    while True:
        with disk_errors(part):
            file = part.open("ab")
        before = file.tell()
        try:
            with file, _network_errors(url, file):
                return _attempt(url, file, size, on_progress)
        except _Interrupted as error:
            failures = 1 if part.stat().st_size > before else failures + 1
            if failures == _FAILURES:
                raise UsageError(
                    f"{url}: {error}, {failures} times in a row; check the network and run it "
                    f"again later. What has arrived is kept in {part}"
                ) from error
            time.sleep(min(max(error.pause, 2.0 ** (failures - 1)), _LONGEST_PAUSE))


def _attempt(url: str, part: IO[bytes], size: int | None, on_progress: OnBytes) -> None:
    """Ask once for what is missing and append what comes."""
    # A data set is an archive already: no further compression, whose length would be unknown.
    headers = {"User-Agent": "pcvpt", "Accept-Encoding": "identity"}
    if part.tell():
        headers["Range"] = f"bytes={part.tell()}-"
    opener = request.build_opener(_NoFTP)
    with opener.open(request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
        total = _start(url, response, part, size)
        on_progress(part.tell(), total)
        while total is None or part.tell() < total:
            # read1 returns what has arrived, so that an interrupt loses little.
            if not (chunk := response.read1(_CHUNK)):
                break
            with disk_errors(Path(part.name)):
                part.write(chunk)
                part.flush()
            on_progress(part.tell(), total)
    if total is not None and part.tell() < total:
        raise _Interrupted(f"the connection was cut after {part.tell():,} of {total:,} bytes")


def _start(
    url: str, response: http.client.HTTPResponse, part: IO[bytes], size: int | None
) -> int | None:
    """Set the part to where the answer begins and return the length of the whole file."""
    total: int | None
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != part.tell():
            _clear(part)
            raise _Interrupted("the server does not resume the file where it was asked to")
        total = int(found[2])
    else:  # the whole file, because the server does not resume
        _clear(part)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
    if size is not None and total not in (None, size):
        raise UsageError(
            f"{url}: the server offers {total:,} bytes, but {size:,} are published; the file has "
            "changed at its source, or a page came in its place. Open it in a browser"
        )
    if total is not None:
        path = Path(part.name)
        check_space(path.parent, total - part.tell(), f"the rest of {path.stem}")
    return size if total is None else total


def _clear(part: IO[bytes]) -> None:
    part.seek(0)
    part.truncate()


@contextmanager
def _network_errors(url: str, part: IO[bytes]) -> Iterator[None]:
    """Separate failures that another attempt may overcome from those that stay."""
    try:
        yield
    except (UsageError, _Interrupted):
        raise
    except HTTPError as error:
        error.close()
        answer = f"the server answers {error.code} ({error.reason})"
        if error.code == 416 and part.tell():  # the part is longer than the file
            _clear(part)
            raise _Interrupted(answer) from error
        if error.code in _BUSY:
            after = error.headers.get("Retry-After", "")
            raise _Interrupted(answer, float(after) if after.isdecimal() else 0.0) from error
        remedy = _REMEDIES.get(error.code, "open it in a browser, and download the file there")
        raise UsageError(f"{url}: {answer}; {remedy}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, socket.gaierror):
            raise UsageError(
                f"{url}: the host {urlsplit(url).hostname} is not known ({reason}); check the "
                "network, or whether the data set has moved"
            ) from error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UsageError(
                f"{url}: the certificate is not trusted ({reason.verify_message}); check the "
                "clock, the network and SSL_CERT_FILE"
            ) from error
        if not isinstance(reason, str):
            fault = str(reason) or type(reason).__name__
            raise _Interrupted(f"the connection failed ({fault})") from error
        raise UsageError(f"{url}: cannot be downloaded ({reason}); correct the address") from error
    except ValueError as error:  # an address or a header that makes no sense
        raise UsageError(f"{url}: cannot be downloaded ({error}); correct the address") from error

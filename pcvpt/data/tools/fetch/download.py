"""One file from the web: continued where it broke off, and checked by its published checksum."""

import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from pcvpt.data.tools.fetch.partial_file import CHUNK, Fingerprint, PartialFile, check_space
from pcvpt.errors import UsageError

_FAILURES = 5  # in a row, none of which brought a byte, until it is given up
_TIMEOUT = 60.0  # seconds without a byte
_LONGEST_PAUSE = 60.0
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_REMEDIES = {
    401: "it asks for a login, so get the file by hand",
    403: "it wants a login or refuses this network; get the file by hand",
    404: "the file has moved or is gone; look at the homepage of the data set",
    410: "the file is gone; look at the homepage of the data set",
}

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and those of the whole file, None if not known."""


class _Lost(Exception):
    """What may go better next time, after ``pause`` seconds if the server says so."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _NotResumable(Exception):
    """The server has no such range of the file; the part is of no use."""


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Fetch ``url`` to ``target``, unless it is there already, and return ``target``.

    What has arrived lies in ``<target>.part``, from where the next call goes on, also after an
    interrupt. The server's mark of the file's version (ETag or date) lies beside it, so that two
    versions are never joined; without such a mark and without a checksum it begins anew.
    Lost connections and busy servers are tried again a few times, with growing pauses.

    Args:
        url: http or https; proxies are taken from the environment, as urllib does.
        target: the file; its folder is made where it is missing.
        sha256: hexadecimal; every checksum that is given must be right.
        md5: hexadecimal.
        size: in bytes.
        on_progress: called now and then.

    Raises:
        UsageError: naming the url and what to do, if the server does not have the file or cannot
            be reached, if a checksum is wrong (the part is then removed), or if the disk is full.
    """
    if not re.match(r"https?://", url, re.IGNORECASE):
        raise UsageError(f"{url}: only http and https are fetched; correct the address")
    wanted = Fingerprint(sha256, md5, size)
    if target.exists():
        wanted.check(target)
        return target
    with PartialFile(target, wanted) as part:
        continued = part.length > 0
        _fetch(url, part, on_progress)
        if part.fault and continued:  # the part may have been of another version
            part.clear()
            _fetch(url, part, on_progress)
        if part.fault:
            fault = part.fault
            part.remove()
            raise UsageError(
                f"{url}: {fault}; what came was removed. Run it again; if that does not help, the "
                "file has changed at its source or on the way"
            )
        part.finish()
    return target


def _fetch(url: str, part: PartialFile, on_progress: Progress | None) -> None:
    """Make the part as long as the file, in as many attempts as it takes."""
    failures = restarts = 0
    size = part.wanted.size
    while not part.whole and (size is None or part.length < size):
        before = part.length
        try:
            _attempt(url, part, on_progress)
            return
        except _NotResumable as error:
            part.clear()
            restarts += 1
            if restarts == _FAILURES:
                raise UsageError(
                    f"{url}: the server neither sends the file in one piece nor goes on with a "
                    "part of it; get the file by hand"
                ) from error
        except _Lost as error:
            failures = 1 if part.length > before else failures + 1
            if failures == _FAILURES:
                raise UsageError(
                    f"{url}: {error}, {failures} times in a row; look at the network and run it "
                    f"again later. What has arrived is kept in {part.path}"
                ) from error
            time.sleep(min(max(error.pause, 2.0 ** (failures - 1)), _LONGEST_PAUSE))


def _attempt(url: str, part: PartialFile, on_progress: Progress | None) -> None:
    """Ask once for what is missing and append what comes."""
    # A data set is an archive already: no further compression, whose length would be unknown.
    headers = {"User-Agent": "pcvpt", "Accept-Encoding": "identity"}
    if part.length:
        headers["Range"] = f"bytes={part.length}-"
        if part.version:
            headers["If-Range"] = part.version
    with _network(url, resuming=part.length > 0):
        response = _opener().open(request.Request(url, headers=headers), timeout=_TIMEOUT)
    with response:
        total = _begin(url, response, part)
        if on_progress:
            on_progress(part.length, total)
        while (total is None or part.length < total) and (chunk := _receive(url, response)):
            part.append(chunk)
            if on_progress:
                on_progress(part.length, total)
    if total is not None and part.length < total:
        raise _Lost(f"the connection was cut after {part.length:,} of {total:,} bytes")


def _begin(url: str, response: http.client.HTTPResponse, part: PartialFile) -> int | None:
    """Set the part to where the answer begins and return the length of the whole file."""
    total: int | None
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != part.length:
            raise _NotResumable
        total = int(found[2])
    else:  # the whole file: the server does not resume, or the file has changed
        part.clear()
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        etag = response.headers.get("ETag", "")
        weak = etag.startswith("W/")  # says that two files mean the same, not that they are
        part.version = response.headers.get("Last-Modified", "") if weak or not etag else etag
    size = part.wanted.size
    if None not in (size, total) and size != total:
        raise UsageError(
            f"{url}: the server offers {total:,} bytes, but {size:,} are published; the file has "
            "changed at its source, or a page came in its place. Look at it in a browser"
        )
    if total is not None:
        check_space(part.path.parent, total - part.length, f"the rest of {part.target.name}")
    return size if total is None else total


def _receive(url: str, response: http.client.HTTPResponse) -> bytes:
    with _network(url):
        return response.read1(CHUNK)  # what is there, so that an interrupt loses little


@contextmanager
def _network(url: str, resuming: bool = False) -> Iterator[None]:
    """Sort what goes wrong on the network into what may pass and what will not."""
    try:
        yield
    except HTTPError as error:
        error.close()
        _refused(url, error, resuming)
    except URLError as error:
        _unreachable(url, error.reason)
    except (OSError, http.client.HTTPException) as error:
        _unreachable(url, error)
    except ValueError as error:  # an address or a header that makes no sense
        raise UsageError(f"{url}: cannot be fetched ({error}); correct the address") from error


def _refused(url: str, error: HTTPError, resuming: bool) -> NoReturn:
    if error.code == 416 and resuming:
        raise _NotResumable from error
    if error.code in _BUSY:
        after = error.headers.get("Retry-After", "")
        pause = float(after) if after.isdecimal() else 0.0
        raise _Lost(f"the server answers {error.code} ({error.reason})", pause) from error
    remedy = _REMEDIES.get(error.code, "look at it in a browser, or get the file by hand")
    raise UsageError(f"{url}: the server answers {error.code} ({error.reason}); {remedy}")


def _unreachable(url: str, reason: object) -> NoReturn:
    if isinstance(reason, socket.gaierror):
        raise UsageError(
            f"{url}: the host {urlsplit(url).hostname} is not known ({reason}); look at the "
            "network, or whether the data set has moved"
        )
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise UsageError(
            f"{url}: the certificate is not trusted ({reason.verify_message}); look at the clock, "
            "the network and SSL_CERT_FILE"
        )
    if isinstance(reason, OSError | http.client.HTTPException):
        raise _Lost(f"the connection failed ({str(reason) or type(reason).__name__})")
    raise UsageError(f"{url}: cannot be fetched ({reason}); look at it in a browser")


def _opener() -> request.OpenerDirector:
    """Return an opener that follows no redirection to anything but http and https."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener

"""One file from the web: resumed where it stopped, and checked by its published checksum."""

import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from pcvpt.data.tools.disk import OnBytes, check_space, disk_errors
from pcvpt.data.tools.fetch.partial_file import CHUNK, Content, PartialFile
from pcvpt.errors import UsageError

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


def download(
    url: str,
    target: Path,
    checksum: str,
    size: int | None = None,
    on_progress: OnBytes | None = None,
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
        on_progress: Function to call as bytes arrive. Default: none.

    Raises:
        UsageError: Naming the address and a remedy, if the server does not have the file or
            cannot be reached, if the checksum is wrong (the part is then removed), or if the disk
            is full.
    """
    if not re.match(r"https?://", url, re.IGNORECASE):
        raise UsageError(f"{url}: only http and https are supported; correct the address")
    if target.exists():
        content = Content(checksum, size)
        with disk_errors(target), target.open("rb") as file:
            content.add_file(file)
        if content.fault:
            raise UsageError(f"{target}: {content.fault}; move it away, and it is downloaded again")
        return target
    with PartialFile(target, checksum, size) as part:
        resumed = part.content.length > 0
        _complete(url, part, on_progress)
        if part.content.fault and resumed:
            part.clear()
            _complete(url, part, on_progress)
        if fault := part.content.fault:
            part.remove()
            raise UsageError(
                f"{url}: {fault}; the file was removed. Run it again; if that does not help, the "
                "file has changed at its source or on the way"
            )
        part.finish()
    return target


def _complete(url: str, part: PartialFile, on_progress: OnBytes | None) -> None:
    """Make the part as long as the file, in several attempts if need be."""
    failures = 0
    while part.content.fault and (
        part.content.size is None or part.content.length < part.content.size
    ):
        before = part.content.length
        try:
            _attempt(url, part, on_progress)
            return
        except _Interrupted as error:
            failures = 1 if part.content.length > before else failures + 1
            if failures == _FAILURES:
                raise UsageError(
                    f"{url}: {error}, {failures} times in a row; check the network and run it "
                    f"again later. What has arrived is kept in {part.path}"
                ) from error
            time.sleep(min(max(error.pause, 2.0 ** (failures - 1)), _LONGEST_PAUSE))


def _attempt(url: str, part: PartialFile, on_progress: OnBytes | None) -> None:
    """Ask once for what is missing and append what comes."""
    # A data set is an archive already: no further compression, whose length would be unknown.
    headers = {"User-Agent": "pcvpt", "Accept-Encoding": "identity"}
    if part.content.length:
        headers["Range"] = f"bytes={part.content.length}-"
    with _network_errors(url, part):
        response = _opener().open(request.Request(url, headers=headers), timeout=_TIMEOUT)
        with response:
            total = _start(url, response, part)
            if on_progress:
                on_progress(part.content.length, total)
            while total is None or part.content.length < total:
                # read1 returns what has arrived, so that an interrupt loses little.
                if not (chunk := response.read1(CHUNK)):
                    break
                part.append(chunk)
                if on_progress:
                    on_progress(part.content.length, total)
    if total is not None and part.content.length < total:
        raise _Interrupted(
            f"the connection was cut after {part.content.length:,} of {total:,} bytes"
        )


def _start(url: str, response: http.client.HTTPResponse, part: PartialFile) -> int | None:
    """Set the part to where the answer begins and return the length of the whole file."""
    total: int | None
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != part.content.length:
            part.clear()
            raise _Interrupted("the server does not resume the file where it was asked to")
        total = int(found[2])
    else:  # the whole file, because the server does not resume
        part.clear()
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
    size = part.content.size
    if size is not None and total not in (None, size):
        raise UsageError(
            f"{url}: the server offers {total:,} bytes, but {size:,} are published; the file has "
            "changed at its source, or a page came in its place. Open it in a browser"
        )
    if total is not None:
        check_space(
            part.path.parent, total - part.content.length, f"the rest of {part.target.name}"
        )
    return size if total is None else total


@contextmanager
def _network_errors(url: str, part: PartialFile) -> Iterator[None]:
    """Separate failures that another attempt may overcome from those that stay."""
    try:
        yield
    except (UsageError, _Interrupted):
        raise
    except HTTPError as error:
        error.close()
        answer = f"the server answers {error.code} ({error.reason})"
        if error.code == 416 and part.content.length:  # the part is longer than the file
            part.clear()
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


def _opener() -> request.OpenerDirector:
    """Return an opener that follows redirections only to http and https."""
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

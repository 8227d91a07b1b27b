"""One file from the web: resumed where it stopped, and checked by its published checksum."""

import hashlib
import re
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pcvpt.data.tools.disk import OnBytes, check_space, disk_errors, silent
from pcvpt.errors import UsageError

_CHUNK = 1 << 20  # bytes
_FAILURES = 5  # in a row, none of which brought a byte, before the download is given up
_TIMEOUT = 60.0  # seconds without a byte
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_REMEDIES = {
    401: "it asks for a login, so download the file in a browser",
    403: "it wants a login or refuses this network; download the file in a browser",
    404: "the file has moved or is gone; see the homepage of the data set",
}


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
    if target.exists():
        if fault := _fault(target, checksum, size):
            raise UsageError(f"{target}: {fault}; move it away, and it is downloaded again")
        return target
    part = target.with_name(f"{target.name}.part")
    with disk_errors(part):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    resumed, fault = part.stat().st_size > 0, _fault(part, checksum, size)
    if fault:
        _complete(url, part, size, on_progress)
        fault = _fault(part, checksum, size)
    if fault and resumed:
        part.write_bytes(b"")
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
        before = part.stat().st_size
        try:
            return _attempt(url, part, size, on_progress)
        except HTTPError as error:
            error.close()
            fault = f"the server answers {error.code} ({error.reason})"
            if error.code == 416 and before:  # the part is longer than the file
                part.write_bytes(b"")
            elif error.code not in _BUSY:
                remedy = _REMEDIES.get(error.code, "download the file in a browser")
                raise UsageError(f"{url}: {fault}; {remedy}") from error
        except (OSError, HTTPException) as error:
            fault = f"the connection failed ({error or type(error).__name__})"
        failures = 1 if part.stat().st_size > before else failures + 1
        if failures == _FAILURES:
            raise UsageError(
                f"{url}: {fault}, {failures} times in a row; check the network and the clock, and "
                f"run it again later. What has arrived is kept in {part}"
            )
        time.sleep(2.0 ** (failures - 1))


def _attempt(url: str, part: Path, size: int | None, on_progress: OnBytes) -> None:
    """Ask once for what is missing and append what comes."""
    # A data set is an archive already: no further compression, whose length would be unknown.
    headers = {"User-Agent": "pcvpt", "Accept-Encoding": "identity"}
    if there := part.stat().st_size:
        headers["Range"] = f"bytes={there}-"
    with urlopen(Request(url, headers=headers), timeout=_TIMEOUT) as response:
        resumed = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        done = int(resumed[1]) if resumed else 0  # all of it, if the server does not resume
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else size
        if size not in (None, total):
            raise UsageError(
                f"{url}: the server offers {total:,} bytes, but {size:,} are published; the file "
                "has changed at its source, or a page came in its place. Open it in a browser"
            )
        check_space(part.parent, (total or done) - done, f"the rest of {part.stem}")
        with disk_errors(part):
            file = part.open("r+b", buffering=0)
        with file:
            file.truncate(done)
            file.seek(done)
            on_progress(done, total)
            # read1 returns what has arrived, so that an interrupt loses little.
            while chunk := response.read1(_CHUNK):
                with disk_errors(part):
                    done += file.write(chunk)
                on_progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"cut after {done:,} of {total:,} bytes")

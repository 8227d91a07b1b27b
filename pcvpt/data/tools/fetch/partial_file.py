"""A file that has not arrived whole: how much of it is there, its checksums, its version."""

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from typing_extensions import Self

from pcvpt.errors import UsageError

CHUNK = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class Fingerprint(NamedTuple):
    """What is published of a file's content, None where it is not: hexadecimal, and bytes."""

    sha256: str | None = None
    md5: str | None = None
    size: int | None = None

    def start(self) -> dict[str, _Hash]:
        """Return a new hash for each checksum that is published."""
        hashes: dict[str, _Hash] = {}
        if self.sha256:
            hashes["SHA-256"] = hashlib.sha256()
        if self.md5:  # MD5 here finds accidents; where a SHA-256 is known it is checked too
            hashes["MD5"] = hashlib.md5(usedforsecurity=False)
        return hashes

    def fault(self, hashes: dict[str, _Hash], length: int) -> str:
        """Say in what a file differs from what is published; empty if in nothing."""
        if self.size is not None and length != self.size:
            return f"it has {length:,} bytes, but {self.size:,} are published"
        for name, published in ("SHA-256", self.sha256), ("MD5", self.md5):
            if published and hashes[name].hexdigest() != published.lower():
                return f"its {name} is {hashes[name].hexdigest()}, but {published} is published"
        return ""

    def check(self, file: Path) -> None:
        """Compare a whole file with what is published.

        Raises:
            UsageError: naming the file, what is published and what it is.
        """
        hashes = self.start()
        with writing(file), file.open("rb") as stream:
            length = file.stat().st_size
            while hashes and (chunk := stream.read(CHUNK)):
                for each in hashes.values():
                    each.update(chunk)
        if fault := self.fault(hashes, length):
            raise UsageError(f"{file}: {fault}; move it away, and it is fetched anew")


class PartialFile:
    """``<target>.part``, and beside it the server's mark of the version that it belongs to."""

    def __init__(self, target: Path, wanted: Fingerprint) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.wanted = wanted
        self._mark = target.with_name(f"{target.name}.part.version")
        with writing(self.path):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("a+b")
            self._file.seek(0)
            self.length, self._hashes = 0, wanted.start()
            while chunk := self._file.read(CHUNK):
                self._count(chunk)
        longer = wanted.size is not None and self.length > wanted.size
        unmarked = not self._hashes and not self.version  # nothing would show a wrong joint
        if longer or unmarked:
            self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def version(self) -> str:
        """The server's mark (ETag or date); empty if there is none."""
        try:
            mark = self._mark.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return mark if mark.isprintable() else ""

    @version.setter
    def version(self, mark: str) -> None:
        with writing(self._mark):
            if mark and mark.isascii():
                self._mark.write_text(mark, encoding="ascii")
            else:
                self._mark.unlink(missing_ok=True)

    @property
    def whole(self) -> bool:
        """Whether a checksum says that nothing is missing."""
        return bool(self._hashes) and not self.fault

    @property
    def fault(self) -> str:
        """In what the file differs from what is published; empty if in nothing."""
        return self.wanted.fault(self._hashes, self.length)

    def append(self, chunk: bytes) -> None:
        """Write ``chunk`` at the end."""
        with writing(self.path):
            self._file.write(chunk)
            self._file.flush()  # so that an interrupt loses nothing that was counted
        self._count(chunk)

    def clear(self) -> None:
        """Begin anew."""
        with writing(self.path):
            self._file.truncate(0)
        self.version = ""
        self.length, self._hashes = 0, self.wanted.start()

    def remove(self) -> None:
        """Delete it."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        self.version = ""

    def finish(self) -> None:
        """Give it the target's name."""
        self._file.close()
        with writing(self.target):
            self.path.replace(self.target)
        self.version = ""

    def _count(self, chunk: bytes) -> None:
        self.length += len(chunk)
        for each in self._hashes.values():
            each.update(chunk)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a ``UsageError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UsageError(
                f"{path}: the disk is full or its quota used up; free some space and run it again"
            ) from error
        reason = error.strerror or error
        raise UsageError(f"{path}: cannot be read or written ({reason})") from error


def check_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse to begin what the disk of ``folder`` has no room for.

    Raises:
        UsageError: naming the folder, the bytes needed and the bytes free.
    """
    with writing(folder):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"{folder}: {purpose} needs {needed:,} bytes, but {free:,} are free; free some space "
            "or give another folder"
        )

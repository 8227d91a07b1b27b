"""Partial downloads, compared with the published size and checksum."""

import hashlib
from pathlib import Path
from typing import IO

from typing_extensions import Self

from pcvpt.data.tools.disk import disk_errors

CHUNK = 1 << 20  # bytes


def kind_of(checksum: str) -> str:
    """Return the name of a checksum's algorithm, SHA-256 or MD5."""
    # MD5 here finds accidents; it is used only where no SHA-256 is published.
    return "SHA-256" if len(checksum) == 64 else "MD5"


class Content:
    """The bytes of a file seen so far, compared with what is published of the whole file.

    Args:
        checksum: SHA-256 or MD5 of the whole file, in hexadecimal.
        size: Size of the whole file in bytes. None where it is not published.
    """

    def __init__(self, checksum: str, size: int | None) -> None:
        self.checksum = checksum
        self.size = size
        self.length = 0
        self._hash = hashlib.new(kind_of(checksum).replace("-", ""), usedforsecurity=False)

    def add(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self.length += len(chunk)
        self._hash.update(chunk)

    def add_file(self, file: IO[bytes]) -> None:
        """Add the bytes of an open file."""
        while chunk := file.read(CHUNK):
            self.add(chunk)

    @property
    def fault(self) -> str:
        """The difference from what is published. Empty if there is none."""
        if self.size is not None and self.length != self.size:
            return f"it has {self.length:,} bytes, but {self.size:,} are published"
        found = self._hash.hexdigest()
        if found != self.checksum.lower():
            return f"its {kind_of(found)} is {found}, but {self.checksum} is published"
        return ""


class PartialFile:
    """The file ``<target>.part``, which is continued where an earlier download stopped.

    All methods raise a ``UsageError`` if the disk is full or refuses to write.
    """

    def __init__(self, target: Path, checksum: str, size: int | None) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.content = Content(checksum, size)
        with disk_errors(self.path):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            self._file.seek(0)
            self.content.add_file(self._file)
        if size is not None and self.content.length > size:
            self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, chunk: bytes) -> None:
        """Write ``chunk`` at the end."""
        with disk_errors(self.path):
            self._file.write(chunk)
            self._file.flush()  # so that an interrupt loses nothing that was counted
        self.content.add(chunk)

    def clear(self) -> None:
        """Remove all that has arrived."""
        with disk_errors(self.path):
            self._file.truncate(0)
        self.content = Content(self.content.checksum, self.content.size)

    def remove(self) -> None:
        """Delete the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the file the target's name."""
        self._file.close()
        with disk_errors(self.target):
            self.path.replace(self.target)

"""A file that has not arrived completely: what has arrived of it, and its checksum so far."""

import hashlib
from pathlib import Path

from typing_extensions import Self

from pcvpt.data.tools.disk import disk_errors
from pcvpt.errors import UsageError

CHUNK = 1 << 20  # bytes


class _Content:
    """The bytes of a file seen so far, compared with what is published of the whole file.

    Args:
        checksum: SHA-256 or MD5 of the whole file, in hexadecimal.
        size: Size of the whole file in bytes. None where it is not published.
    """

    def __init__(self, checksum: str, size: int | None) -> None:
        self.checksum = checksum
        self.size = size
        self.length = 0
        # MD5 here finds accidents; it is used only where no SHA-256 is published.
        self.kind = "SHA-256" if len(checksum) == 64 else "MD5"
        self.hash = hashlib.new(self.kind.replace("-", ""), usedforsecurity=False)

    def add(self, chunk: bytes) -> None:
        self.length += len(chunk)
        self.hash.update(chunk)

    @property
    def fault(self) -> str:
        """The difference from what is published. Empty if there is none."""
        if self.size is not None and self.length != self.size:
            return f"it has {self.length:,} bytes, but {self.size:,} are published"
        if self.hash.hexdigest() != self.checksum.lower():
            return f"its {self.kind} is {self.hash.hexdigest()}, but {self.checksum} is published"
        return ""


def check_file(file: Path, checksum: str, size: int | None) -> None:
    """Compare a complete file with what is published of it.

    Args:
        file: File to check.
        checksum: SHA-256 or MD5, in hexadecimal.
        size: Size in bytes. None where it is not published.

    Raises:
        UsageError: Naming the file and the difference.
    """
    content = _Content(checksum, size)
    with disk_errors(file), file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            content.add(chunk)
    if content.fault:
        raise UsageError(f"{file}: {content.fault}; move it away, and it is downloaded again")


class PartialFile:
    """The file ``<target>.part``, which is continued where an earlier download stopped.

    Args:
        target: Path that the complete file gets.
        checksum: SHA-256 or MD5 of the complete file, in hexadecimal.
        size: Size of the complete file in bytes. None where it is not published.

    Raises:
        UsageError: If the disk is full or refuses to write, here and in all methods.
    """

    def __init__(self, target: Path, checksum: str, size: int | None) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._content = _Content(checksum, size)
        with disk_errors(self.path):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            self._file.seek(0)
            while chunk := self._file.read(CHUNK):
                self._content.add(chunk)
        if size is not None and self.length > size:
            self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def length(self) -> int:
        """Bytes that have arrived."""
        return self._content.length

    @property
    def size(self) -> int | None:
        """Published size in bytes."""
        return self._content.size

    @property
    def fault(self) -> str:
        """The difference from what is published. Empty if the file is complete."""
        return self._content.fault

    def append(self, chunk: bytes) -> None:
        """Write ``chunk`` at the end."""
        with disk_errors(self.path):
            self._file.write(chunk)
            self._file.flush()  # so that an interrupt loses nothing that was counted
        self._content.add(chunk)

    def clear(self) -> None:
        """Remove all that has arrived."""
        with disk_errors(self.path):
            self._file.truncate(0)
        self._content = _Content(self._content.checksum, self.size)

    def remove(self) -> None:
        """Delete the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the file the target's name."""
        self._file.close()
        with disk_errors(self.target):
            self.path.replace(self.target)

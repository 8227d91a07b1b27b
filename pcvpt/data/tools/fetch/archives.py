"""Unpacking archives that nobody has looked at: nothing of them ends up outside its folder."""

import gzip
import re
import secrets
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

from pcvpt.data.tools.fetch.partial_file import CHUNK, writing
from pcvpt.errors import UsageError

_RESERVE = 64 << 20  # bytes that are left free, so that a bomb does not fill the disk
_BLOCK = 512  # of a tar file

Progress = Callable[[int, int | None], None]
"""Called with the bytes of the archive that are done and those of all of it."""


def unpack(
    archive: Path,
    target: Path,
    restrict: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> Path:
    """Unpack ``archive`` into the new folder ``target`` and return that.

    It unpacks into a folder beside it, which gets its name when whole and is deleted on any error.
    Files get the permissions of new files, whatever the archive says. Of members of the same name
    the last remains, as with ``tar``.

    Args:
        archive: ``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``, or ``.gz`` of a single file, which gets
            the archive's name without ``.gz``.
        target: must not exist.
        restrict: unpack no members but these, and those in folders of these names.
        on_progress: called now and then.

    Raises:
        UsageError: naming the archive, and the member where one is at fault, if a member would
            lie outside the folder (an absolute name, ``..``, a drive letter), is a link or no
            file at all, if the archive is damaged, cut short, encrypted or of another kind, if a
            name in ``restrict`` is not in it, if the disk is full, or if ``target`` exists.
    """
    if target.exists():
        raise UsageError(f"{target}: exists already; move it away or give another folder")
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    try:
        with writing(target):
            partial.mkdir(parents=True)
        with _damage(archive), archive.open("rb") as stream:
            _Unpacking(archive, partial, restrict, on_progress).run(stream)
        with writing(target):
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Unpacking:
    """One archive on its way into one folder."""

    def __init__(
        self, archive: Path, folder: Path, restrict: Sequence[str], on_progress: Progress | None
    ) -> None:
        self._archive = archive
        self._folder = folder
        self._restrict = [PurePosixPath(name) for name in restrict]
        self._missing = set(self._restrict)
        self._on_progress = on_progress
        self._size = archive.stat().st_size if archive.is_file() else 0
        self._room = shutil.disk_usage(folder).free - _RESERVE

    def run(self, stream: IO[bytes]) -> None:
        name = self._archive.name.lower()
        if not self._size:  # gzip would take it for an empty file
            raise EOFError("it is empty")
        if name.endswith(".zip"):
            self._zip(stream)
        elif name.endswith(".tar"):
            self._tar(stream, stream)
        elif name.endswith((".tar.gz", ".tgz")):
            with gzip.open(stream) as inner:
                self._tar(inner, stream)
        elif name.endswith(".gz"):
            with gzip.open(stream) as inner:
                self._member(self._archive.name[: -len(".gz")], inner, 0, stream)
        else:
            raise UsageError(
                f"{self._archive}: not a kind of archive that is unpacked here; unpack it by hand"
            )
        if not any(self._folder.iterdir()) and not self._missing:
            raise EOFError("it holds nothing")
        for prefix in sorted(self._missing):
            raise UsageError(
                f"{self._archive}: nothing in it is called {prefix}; its authors have changed it"
            )

    def _zip(self, stream: IO[bytes]) -> None:
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                if not self._wanted(info.filename):
                    continue
                kind = stat.S_IFMT(info.external_attr >> 16)  # 0 from systems other than Unix
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    self._refuse(info.filename, "is a link or no file")
                elif "\0" in info.orig_filename:  # zipfile leaves out what follows
                    self._refuse(info.orig_filename, "would lie outside the folder")
                elif info.is_dir():
                    self._make(info.filename)
                elif info.flag_bits & 1:
                    self._refuse(info.filename, "is encrypted")
                else:
                    with archive.open(info) as content:
                        self._member(info.filename, content, info.file_size, stream)

    def _tar(self, plain: _Readable, stream: IO[bytes]) -> None:
        ending = _Ending(plain)
        with tarfile.open(fileobj=cast("IO[bytes]", ending), mode="r|") as archive:
            for info in archive:
                if not self._wanted(info.name):
                    continue
                if info.isdir():
                    self._make(info.name)
                elif not info.isreg():
                    self._refuse(info.name, "is a link or no file")
                elif (content := archive.extractfile(info)) is not None:
                    with content:
                        self._member(info.name, content, info.size, stream)
        # tarfile stops at what looks like the end. Reading on checks gzip's own checksum, and the
        # block of zeros tells an end from a cut between two members.
        while ending.read(CHUNK):
            pass
        if ending.last.strip(b"\0") or len(ending.last) < _BLOCK:
            raise EOFError("it has no end")

    def _wanted(self, name: str) -> bool:
        path = PurePosixPath(name)
        matching = {each for each in self._restrict if path == each or each in path.parents}
        self._missing -= matching
        return bool(matching) or not self._restrict

    def _place(self, name: str) -> Path:
        """Return where a member goes; the only place that turns its name into a path."""
        path = PurePosixPath(name)
        windows = "\\" in name or any(re.match("[A-Za-z]:", part) for part in path.parts)
        if path.is_absolute() or ".." in path.parts or "\0" in name or windows:
            self._refuse(name, "would lie outside the folder")
        return self._folder.joinpath(*path.parts)

    def _make(self, name: str) -> None:
        place = self._place(name)
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)

    def _member(self, name: str, content: _Readable, size: int, stream: IO[bytes]) -> None:
        """Write one file. Nothing in the folder is a link, so it cannot be led elsewhere."""
        place = self._place(name)
        if place == self._folder:
            self._refuse(name, "has no name")
        self._reserve(size)
        written = 0
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            output = place.open("wb")
        with output:
            while chunk := content.read(CHUNK):
                written += len(chunk)
                self._reserve(written)  # the size that the archive states may be a lie
                with writing(place):
                    output.write(chunk)
                if self._on_progress:
                    self._on_progress(min(stream.tell(), self._size), self._size)
            with writing(place):
                output.flush()
        if size and written != size:
            raise EOFError(f"{name} is cut short")
        self._room -= written

    def _reserve(self, size: int) -> None:
        if size > self._room:
            raise UsageError(
                f"{self._folder.parent}: the disk has no room to unpack {self._archive.name}, of "
                f"which one member alone takes {size:,} bytes where {max(0, self._room):,} may be "
                "used; free some space or give another folder"
            )

    def _refuse(self, name: str, reason: str) -> None:
        raise UsageError(
            f"{self._archive}: its member {name!r} {reason}; nothing was unpacked. Get the "
            "archive from its authors"
        )


class _Ending:
    """A stream that remembers its last block."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.last = (self.last + data)[-_BLOCK:]
        return data


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        if isinstance(error, OSError) and error.errno:
            raise UsageError(f"{archive}: cannot be read ({error.strerror})") from error
        raise UsageError(
            f"{archive}: damaged or cut short ({str(error) or type(error).__name__}); "
            "nothing was unpacked. Remove it and get it anew"
        ) from error

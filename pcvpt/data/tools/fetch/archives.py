"""Archives are unpacked so that nothing of them ends up outside the given folder."""

import gzip
import platform
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pcvpt.data.tools.disk import OnBytes
from pcvpt.errors import UsageError

SUFFIXES = (".zip", ".tar", ".tgz", ".gz")
"""Suffixes of the archives that ``unpack`` knows."""

_CHUNK = 1 << 20  # bytes
_RESERVE = 64 << 20  # bytes that are left free, so that an archive cannot fill the disk
_OUTSIDE = re.compile(r"[\\/]|[A-Za-z]:|(.*[\\/])?\.\.([\\/]|$)|.*\0", re.DOTALL)


def unpack(
    archive: Path, folder: Path, member: str = "", on_progress: OnBytes | None = None
) -> None:
    """Unpack ``archive`` into ``folder``.

    After an error, ``folder`` may hold a part of the files, so it should be one that is then
    removed.

    Args:
        archive: ``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``, or ``.gz`` of a single file, which gets
            the archive's name without ``.gz``.
        folder: Existing folder.
        member: File or folder in the archive to unpack. Empty unpacks everything.
        on_progress: Function to call as the unpacking proceeds. Default: none.

    Raises:
        UsageError: Naming the archive if it is damaged, encrypted or of another kind, if it does
            not hold ``member``, if a member would lie outside ``folder`` (an absolute name,
            ``..``, a drive letter), is a link or a device, or if the disk has no room.
    """
    guard = _Guard(archive, folder, member)
    with _named_errors(archive, folder):
        size = archive.stat().st_size
        if not size:  # gzip would take it for an empty file
            raise EOFError("it is empty")

        def report(done: int) -> None:
            if on_progress:
                on_progress(min(done, size), size)

        name = archive.name.lower()
        if name.endswith(".zip"):
            _unpack_zip(archive, folder, guard, report)
        elif name.endswith((".tar", ".tar.gz", ".tgz")):
            _unpack_tar(archive, folder, guard, report)
        elif name.endswith(".gz"):
            _unpack_gz(archive, folder, guard, report)
        else:
            raise UsageError(f"{archive}: not {', '.join(SUFFIXES)}; unpack it yourself")
    if not guard.found:
        raise UsageError(
            f"{archive}: does not hold {member or 'any file'}; its authors have changed it"
        )


class _Guard:
    """Checks of each member before it is unpacked."""

    def __init__(self, archive: Path, folder: Path, member: str) -> None:
        self._archive = archive
        self._member = PurePosixPath(member)
        self._room = shutil.disk_usage(folder).free - _RESERVE
        self.found = False

    def wants(self, name: str, size: int, ordinary: bool) -> bool:
        """Return whether a member is to be unpacked; raise an error if it must not be."""
        path = PurePosixPath(name)
        if self._member not in (path, *path.parents, PurePosixPath()):
            return False
        if _OUTSIDE.match(name) or not ordinary:
            fault = "would lie outside the folder" if ordinary else "is a link or a device"
            raise UsageError(
                f"{self._archive}: its member {name!r} {fault}; get the archive from its authors"
            )
        self.found = True
        self.reserve(size)
        return True

    def reserve(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise UsageError(
                f"{self._archive}: the disk has no room to unpack it; free some space or give "
                "another folder"
            )


def _unpack_zip(archive: Path, folder: Path, guard: _Guard, report: Callable[[int], None]) -> None:
    done = 0
    with zipfile.ZipFile(archive) as packed:
        wanted = []
        for info in packed.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 from systems other than Unix
            ordinary = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            if guard.wants(info.orig_filename, info.file_size, ordinary):
                wanted.append(info)
        for info in wanted:
            packed.extract(info, folder)
            done += info.compress_size
            report(done)


def _unpack_tar(archive: Path, folder: Path, guard: _Guard, report: Callable[[int], None]) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UsageError(
            f"{archive}: this is Python {platform.python_version()}, but unpacking it safely needs "
            "3.10.12, 3.11.4 or 3.12; update Python, or unpack it yourself"
        )

    def wanted() -> Iterator[tarfile.TarInfo]:
        for info in packed:
            report(stream.tell())
            if guard.wants(info.name, info.size, info.isreg() or info.isdir()):
                yield info

    with archive.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as packed:
        packed.extractall(folder, wanted(), filter="data")


def _unpack_gz(archive: Path, folder: Path, guard: _Guard, report: Callable[[int], None]) -> None:
    guard.wants(archive.stem, 0, True)
    with (
        archive.open("rb") as stream,
        gzip.open(stream) as packed,
        (folder / archive.stem).open("wb") as output,
    ):
        while chunk := packed.read(_CHUNK):
            guard.reserve(len(chunk))  # nothing reliable states the size beforehand
            output.write(chunk)
            report(stream.tell())


@contextmanager
def _named_errors(archive: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        if isinstance(error, OSError) and error.errno:
            raise UsageError(
                f"{archive}: cannot be unpacked into {folder} ({error.strerror}); free some space, "
                "or check the folder's permissions, and run it again"
            ) from error
        raise UsageError(
            f"{archive}: damaged or cut short ({str(error) or type(error).__name__}); remove it "
            "and get it again"
        ) from error

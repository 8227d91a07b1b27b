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
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pcvpt.data.tools.disk import OnBytes, silent
from pcvpt.errors import UsageError

SUFFIXES = (".zip", ".tar", ".tgz", ".gz")
"""Suffixes of the archives that ``unpack`` knows."""

_CHUNK = 1 << 20  # bytes
_RESERVE = 64 << 20  # bytes that are left free, so that an archive cannot fill the disk
_OUTSIDE = re.compile(r"[\\/]|[A-Za-z]:|(.*[\\/])?\.\.([\\/]|$)|.*\0", re.DOTALL)


def unpack(archive: Path, folder: Path, member: str = "", on_progress: OnBytes = silent) -> None:
    """Unpack ``archive`` into ``folder``.

    After an error, ``folder`` may hold a part of the files, so it should be one that is then
    removed.

    Args:
        archive: ``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``, or ``.gz`` of a single file, which gets
            the archive's name without ``.gz``.
        folder: Existing folder.
        member: File or folder in the archive to unpack. Empty unpacks everything.

    Raises:
        UsageError: Naming the archive if it is damaged, encrypted or of another kind, if it does
            not hold ``member``, if a member would lie outside ``folder`` (an absolute name,
            ``..``, a drive letter), is a link or a device, or if the disk has no room.
    """
    room, found = shutil.disk_usage(folder).free - _RESERVE, False
    with _named_errors(archive, folder):
        size = archive.stat().st_size
        if not size:  # gzip would take it for an empty file
            raise EOFError("it is empty")
        for each in _members(archive, folder):
            on_progress(min(each.position, size), size)
            path = PurePosixPath(each.name)
            if PurePosixPath(member) not in (path, *path.parents, PurePosixPath()):
                continue
            if _OUTSIDE.match(each.name) or not each.ordinary:
                fault = "would lie outside the folder" if each.ordinary else "is a link or a device"
                raise UsageError(
                    f"{archive}: its member {each.name!r} {fault}; get the archive from its authors"
                )
            room -= each.size
            if room < 0:
                raise UsageError(
                    f"{archive}: the disk has no room to unpack it; free some space or give "
                    "another folder"
                )
            each.extract()
            found = True
    if not found:
        raise UsageError(
            f"{archive}: does not hold {member or 'any file'}; its authors have changed it"
        )


class _Member(NamedTuple):
    name: str
    size: int
    ordinary: bool  # a file or a folder
    position: int  # in the archive
    extract: Callable[[], object]


def _members(archive: Path, folder: Path) -> Iterator[_Member]:
    name = archive.name.lower()
    if name.endswith(".zip"):
        done = 0
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)  # 0 from systems other than Unix
                ordinary = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                size, extract = info.file_size, partial(packed.extract, info, folder)
                yield _Member(info.orig_filename, size, ordinary, done, extract)
                done += info.compress_size
    elif name.endswith((".tar", ".tar.gz", ".tgz")):
        if not hasattr(tarfile, "data_filter"):
            raise UsageError(
                f"{archive}: this is Python {platform.python_version()}, but unpacking it safely "
                "needs 3.10.12, 3.11.4 or 3.12; update Python, or unpack it yourself"
            )
        with archive.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            for each in tar:
                ordinary = each.isreg() or each.isdir()
                take = partial(tar.extract, each, folder, filter="data")
                yield _Member(each.name, each.size, ordinary, stream.tell(), take)
    elif name.endswith(".gz"):
        output = folder / archive.stem
        with archive.open("rb") as stream, gzip.open(stream) as gz, output.open("wb") as file:
            while chunk := gz.read(_CHUNK):  # nothing reliable states the size beforehand
                write = partial(file.write, chunk)
                yield _Member(archive.stem, len(chunk), True, stream.tell(), write)
    else:
        raise UsageError(f"{archive}: not {', '.join(SUFFIXES)}; unpack it yourself")


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

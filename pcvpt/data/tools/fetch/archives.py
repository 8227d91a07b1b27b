"""Archives are unpacked so that nothing of them ends up outside the given folder."""

import gzip
import platform
import re
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from pcvpt.data.tools.disk import check_space
from pcvpt.errors import UsageError

SUFFIXES = (".zip", ".tar", ".tgz", ".gz")
"""Suffixes of the archives that ``unpack`` knows."""

_OUTSIDE = re.compile(r"[\\/]|[A-Za-z]:|(.*[\\/])?\.\.([\\/]|$)|.*\0", re.DOTALL)


def unpack(archive: Path, folder: Path, member: str = "") -> None:
    """Unpack ``archive`` into ``folder``, which may hold a part of the files after an error.

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
    name = archive.name.lower()
    try:
        if not archive.stat().st_size:  # gzip would take it for an empty file
            raise EOFError("it is empty")
        if name.endswith(".zip"):
            found = _unpack_zip(archive, folder, member)
        elif name.endswith((".tar", ".tar.gz", ".tgz")):
            found = _unpack_tar(archive, folder, member)
        elif name.endswith(".gz"):
            with gzip.open(archive) as packed, (folder / archive.stem).open("wb") as file:
                shutil.copyfileobj(packed, file)
            found = True
        else:
            raise UsageError(f"{archive}: not {', '.join(SUFFIXES)}; unpack it yourself")
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
    if not found:
        raise UsageError(
            f"{archive}: does not hold {member or 'any file'}; its authors have changed it"
        )


def _unpack_zip(archive: Path, folder: Path, member: str) -> bool:
    with zipfile.ZipFile(archive) as packed:
        wanted = [each for each in packed.infolist() if _wanted(each.orig_filename, member)]
        for each in wanted:
            kind = stat.S_IFMT(each.external_attr >> 16)  # 0 from systems other than Unix
            _check(archive, each.orig_filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
        check_space(folder, sum(each.file_size for each in wanted), f"unpacking {archive.name}")
        packed.extractall(folder, wanted)
    return bool(wanted)


def _unpack_tar(archive: Path, folder: Path, member: str) -> bool:
    if not hasattr(tarfile, "data_filter"):
        raise UsageError(
            f"{archive}: this is Python {platform.python_version()}, but unpacking it safely "
            "needs 3.10.12, 3.11.4 or 3.12; update Python, or unpack it yourself"
        )
    found = False
    with tarfile.open(archive, "r|*") as packed:
        for each in packed:
            if _wanted(each.name, member):
                _check(archive, each.name, each.isreg() or each.isdir())
                check_space(folder, each.size, f"unpacking {archive.name}")
                packed.extract(each, folder, filter="data")
                found = True
    return found


def _wanted(name: str, member: str) -> bool:
    path = PurePosixPath(name)
    return PurePosixPath(member) in (path, *path.parents, PurePosixPath())


def _check(archive: Path, name: str, ordinary: bool) -> None:
    """Refuse a member that is no file or folder, or that would leave the folder."""
    if _OUTSIDE.match(name) or not ordinary:
        fault = "would lie outside the folder" if ordinary else "is a link or a device"
        raise UsageError(
            f"{archive}: its member {name!r} {fault}; get the archive from its authors"
        )

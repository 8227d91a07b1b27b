"""From the archives of a data set to its files, in a folder of their own until all are there."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pcvpt.data.tools.fetch.archives import unpack
from pcvpt.data.tools.fetch.download import download
from pcvpt.data.tools.fetch.partial_file import check_space, writing
from pcvpt.data.tools.fetch.sources import Archive
from pcvpt.errors import UsageError

if sys.platform != "win32":
    import fcntl

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, the bytes that are done and those of all, None if not known."""


def assemble(
    archives: Sequence[Archive], work: Path, remedy: str, on_progress: Progress | None = None
) -> Path:
    """Fetch ``archives`` into the folder ``work`` and return a folder of all their files in place.

    What was fetched stays in ``work`` for another call; what was unpacked is unpacked anew.

    Raises:
        UsageError: naming what is wrong; where a file cannot be fetched, also where to put it by
            hand, with ``remedy`` for what to do then.
    """
    known = sum(each.size or 0 for each in archives)
    arrived = sum(_length(work / each.filename) for each in archives)
    # Images hardly shrink when packed, so that the files take about as much room once more.
    check_space(work, max(0, known - arrived) + known, "the data set")
    for each in archives:
        _fetch(each, work, remedy, on_progress)
    stage = work / "unpacked"
    with writing(stage):
        if stage.exists():
            shutil.rmtree(stage)
        stage.mkdir()
    for number, each in enumerate(archives):
        report = partial(on_progress, f"unpacking {each.filename}") if on_progress else None
        fresh = work / f"unpacked-{number}"
        with writing(fresh):
            shutil.rmtree(fresh, ignore_errors=True)
        if not each.packed:
            _link(work / each.filename, stage / each.into / each.filename)
            continue
        if each.inner:
            unpack(work / each.filename, fresh, (each.inner,), report)
            outer = fresh.with_name(f"{fresh.name}-inner")
            shutil.rmtree(outer, ignore_errors=True)
            unpack(fresh / each.inner, outer, each.only, report)
            shutil.rmtree(fresh)
            fresh = outer
        else:
            unpack(work / each.filename, fresh, each.only, report)
        _merge(fresh, stage / each.into)
    return stage


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from working in ``folder``, which is made, for as long as this lasts.

    On Windows, and on file systems without locks, nothing keeps them.

    Raises:
        UsageError: if another process is working there.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"{folder}: another process is getting this data set; wait for it to end"
                ) from error
            except OSError:  # a file system without locks
                pass
        yield


def _fetch(archive: Archive, work: Path, remedy: str, on_progress: Progress | None) -> None:
    target = work / archive.filename
    report = partial(on_progress, f"downloading {archive.filename}") if on_progress else None
    try:
        download(archive.url, target, archive.sha256, archive.md5, archive.size, report)
    except UsageError as error:
        raise UsageError(
            f"{error}\nIf it cannot be fetched from here: get {archive.filename} by other means, "
            f"put it at {target}, then {remedy}"
        ) from error


def _link(file: Path, place: Path) -> None:
    """Put ``file`` at ``place`` too, without using its room twice where that is possible."""
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:  # a file system without links
            shutil.copyfile(file, place)


def _merge(folder: Path, into: Path) -> None:
    """Move what is in ``folder`` to ``into``, where the same folders may exist."""
    with writing(into):
        into.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            place = into / path.name
            if path.is_dir() and place.is_dir():
                _merge(path, place)
            else:
                path.replace(place)
        folder.rmdir()


def _length(file: Path) -> int:
    part = file.with_name(f"{file.name}.part")
    return sum(each.stat().st_size for each in (file, part) if each.is_file())

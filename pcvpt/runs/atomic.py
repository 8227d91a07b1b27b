"""Atomic writes: a file or a folder is complete, or it is not there.

This holds even if the process is killed, the disk is full, or the power fails. Two checks tell
before a run whether its files could be written.
"""

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pcvpt.errors import UsageError, causes

LEAST_FREE = 64 * 2**20  # bytes; checkpoints of prompts take a few MB each


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a hidden file beside ``path``, and rename it to ``path`` once it is on the disk.

    What was at ``path`` before stays there until then. A killed process leaves no more than a
    hidden ``.NAME.part``, which the next write overwrites.

    Raises:
        UsageError: Naming ``path``, if it can't be written, such as on a full disk.
    """
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError | RuntimeError):  # torch.save wraps what the file raises
            _complain(path, error)
        raise


def link_file(path: Path, copy: Path) -> None:
    """Give the complete file ``path`` a second name ``copy``, in one step and without writing it.

    Where the file system has no such links, ``copy`` is written by :func:`atomic_file`.
    """
    partial = _partial(copy)
    try:
        partial.unlink(missing_ok=True)
        os.link(path, partial)
    except OSError:
        with atomic_file(copy) as file:
            file.write(path.read_bytes())
        return
    try:
        os.replace(partial, copy)
        _sync_folder(copy.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        _complain(copy, error)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty hidden folder beside ``path``, which must not exist, and rename it at the end.

    Errors of the code that fills the folder are passed on as they are.

    Raises:
        UsageError: Naming ``path``, if it exists.
    """
    if path.exists():
        raise UsageError(f"{path} exists; remove it, or name another folder")
    partial = _partial(path)
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_writable(path: Path) -> None:
    """Raise a UsageError if :func:`atomic_file` could not write ``path``; make its folder."""
    if os.path.isdir(path):  # unlike Path.is_dir, False also for impossible names
        raise UsageError(f"{path}: is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _partial(path).touch()
        _partial(path).unlink()
    except OSError as error:
        _complain(path, error)


def check_output(folder: Path, option: str = "--output_dir") -> None:
    """Write a small file to ``folder``, or where it will be made, and remove it again.

    The message names the ``option`` of the command that gives another folder.

    Raises:
        UsageError: Folder that can't be made or written to, or whose disk is nearly full.
    """
    try:
        folder = folder.expanduser()
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.NamedTemporaryFile(dir=there, prefix=".", suffix=".part") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())  # a quota or a network disk may not complain earlier
        free = shutil.disk_usage(there).free
    except (OSError, ValueError, RuntimeError) as error:  # the last: ~user without such a user
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{folder}: can't be written to ({reason}); name another folder by {option}"
        ) from error
    if free < LEAST_FREE:
        raise UsageError(
            f"{folder}: {free / 2**20:.0f} MB are free on its disk, and a run needs "
            f"{LEAST_FREE / 2**20:.0f} MB at least; make room, or name another folder by "
            f"{option}"
        )


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8, and names of files in their bytes, see :func:`atomic_file`."""
    with atomic_file(path) as file:
        file.write(text.encode(errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path``, see :func:`atomic_file`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write ``rows``, which may lack columns, to the CSV file ``path``, see :func:`atomic_file`."""
    text = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _complain(path: Path, error: BaseException) -> None:
    """Raise a UsageError if the system refused to write."""
    cause = next((e for e in causes(error) if isinstance(e, OSError)), None)
    if cause is None:
        return
    before = "; what was there before is unharmed" if os.path.isfile(path) else ""
    raise UsageError(
        f"{path}: can't be written ({cause.strerror or cause}){before}; free some disk space, or "
        "check the folder's permissions, and start again (a fit continues by --resume)"
    ) from error


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a loss of power, too, where the system can do that."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # some network file systems have no such thing
            os.fsync(handle)
        os.close(handle)

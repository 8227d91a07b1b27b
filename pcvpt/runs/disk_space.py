"""Check of an output folder and its disk, before a run begins."""

import os
import shutil
import tempfile
from pathlib import Path

from pcvpt.errors import UsageError

LEAST_FREE = 64 * 2**20  # bytes; checkpoints of prompts take a few MB each


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

"""Lock of a run: one process at a time trains it."""

import os
import platform
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RunLock:
    """Lock of a run folder, which this process holds until it releases it or ends."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def __reduce__(self) -> tuple[type["RunLock"], tuple[()]]:
        return RunLock, ()  # a copy, such as one of a model whose hooks reach the run, holds none

    def take(self, run: Path) -> str | None:
        """Take the lock of the folder ``run``; return its holder if that is another process.

        Where the system or the file system has no locks, nobody is refused.
        """
        run.mkdir(parents=True, exist_ok=True)
        file = (run / ".lock").open("a+")
        try:
            if fcntl is not None:
                # Not flock: worker processes would inherit it, and outlive this one by seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            return file.read().strip() or "another process"
        except OSError:
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        self._file = file
        return None

    def release(self) -> None:
        """Release the lock, if this process holds it."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

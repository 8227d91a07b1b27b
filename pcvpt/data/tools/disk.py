"""Free disk space, disk errors, and the types of progress callbacks."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pcvpt.errors import UsageError

OnImages = Callable[[int, int], None]
"""Called with the number of images that are done and of all images."""

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes of a file that are done and those of all of it, None if not known."""


def silent(*_: object) -> None:
    """Tell nobody of the progress."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError``, such as of a full disk, into a ``UsageError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read or written ({error.strerror or error}); free some space, or "
            "check the folder's permissions, and run it again"
        ) from error


def check_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise a ``UsageError`` if the disk of ``folder`` has no room for ``needed`` bytes."""
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"{folder}: {purpose} needs {needed:,} bytes, but {free:,} are free; free some space "
            "or give another folder"
        )

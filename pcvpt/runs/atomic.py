"""Files that are there in full or not at all, whenever a process ends or a disk fills up."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from typing_extensions import override

from pcvpt.errors import UsageError, causes


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have ``write`` fill a file beside ``path``, and put it in its place once it is on the disk.

    What was at ``path`` before stays there until then. A process that is killed leaves no more than
    a hidden ``.NAME.part``, which the next write takes for its own.

    Raises:
        UsageError: when it can't be written, such as on a full disk; it names the file.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save wraps what the file raises
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        cause = next((e for e in causes(error) if isinstance(e, OSError)), None)
        if cause is None:
            raise
        before = "; what was there before is unharmed" if path.exists() else ""
        raise UsageError(
            f"{path}: can't be written ({cause.strerror or cause}){before}; make room, or see to "
            "the folder's permissions, and start again (a fit goes on by --resume)"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8 to ``path`` by :func:`write_whole`."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON for people to read to ``path`` by :func:`write_whole`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints by :func:`write_whole`.

    Lightning's own moves them from the system's folder for temporary files, and a move from one
    file system to another is a copy, which can be cut off.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        if "://" in str(path):  # not on this machine
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_whole(Path(path), lambda file: torch.save(checkpoint, file))


def _sync_folder(folder: Path) -> None:
    """Have the file's new name survive a loss of power, too, where the system can do that."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError:  # some network file systems have no such thing
            pass
        finally:
            os.close(handle)

"""Images decoded and resized once, and held as uint8, in memory or in a file that is mapped."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from pcvpt.data.image_files import load, size_of
from pcvpt.data.splits import Item, Record
from pcvpt.data.transforms import Preprocessing
from pcvpt.errors import UsageError

Cache = Literal["none", "memory", "disk"]

_FORMAT = 1  # of the cached pixels; raised when decoding or resizing changes
_UNKNOWN = 4e9  # bytes taken to be available where the system does not tell
_CGROUP = Path("/sys/fs/cgroup")


class Pixels:
    """Resized images one after the other in one uint8 array.

    Args:
        flat: all values, image after image, each (3, h, w).
        sizes: (h, w) of each image.
    """

    def __init__(self, flat: NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> None:
        self.sizes = sizes
        self.starts = [0, *accumulate(3 * h * w for h, w in sizes)]
        self._flat = torch.from_numpy(flat)
        alike = len(set(sizes)) == 1
        self._whole = self._flat.view(len(sizes), 3, *sizes[0]) if alike else None

    def __getitem__(self, index: int) -> Tensor:
        """Return one image, (3, h, w), to be read only."""
        height, width = self.sizes[index]
        part = self._flat[self.starts[index] : self.starts[index + 1]]
        return part.view(3, height, width)

    def batch(self, indices: Sequence[int]) -> Tensor | None:
        """Return (b, 3, h, w) copied at once, or None when images differ in size."""
        return None if self._whole is None else self._whole[torch.tensor(indices)]


def in_memory(items: Sequence[Item], steps: Preprocessing, budget: float | None) -> Pixels:
    """Decode ``items`` into memory; ``budget`` in GB, half of what is available where it is None.

    Raises:
        UsageError: if they do not fit, before any is decoded.
    """
    sizes = _sizes(items, steps)
    allowed = _available_memory() / 2 if budget is None else budget * 1e9
    _check(sizes, allowed, "memory", "disk, or none")
    flat = np.empty(_bytes(sizes), np.uint8)
    _fill(flat, items, sizes, steps)
    return Pixels(flat, sizes)


def on_disk(
    items: Sequence[Item], steps: Preprocessing, folder: Path, budget: float | None
) -> Pixels:
    """Decode ``items`` into a file in ``folder``, or take the one an earlier run has left.

    The file's name is a hash of what the images are and what is done to them, so that a changed
    image or protocol makes a new one. It is written beside and renamed when whole.

    Raises:
        UsageError: if they do not fit on the disk, before any is decoded.
    """
    sizes = _sizes(items, steps)
    file = folder / f"{_identity(items, steps)}.uint8"
    try:
        if not file.is_file() or file.stat().st_size != _bytes(sizes):
            folder.mkdir(parents=True, exist_ok=True)
            free = 0.9 * shutil.disk_usage(folder).free
            allowed = free if budget is None else min(free, budget * 1e9)
            _check(sizes, allowed, "disk", "none, or another cache_folder")
            _write(file, items, sizes, steps)
        # Mapped copy-on-write: torch has no read-only tensors, and nothing may reach the file.
        return Pixels(np.memmap(file, np.uint8, "c"), sizes)
    except OSError as error:
        raise UsageError(
            f"{folder}: the cache of images cannot be kept here ({error}); set cache_folder"
        ) from error


def _write(
    file: Path, items: Sequence[Item], sizes: Sequence[tuple[int, int]], steps: Preprocessing
) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".partial")
    try:
        if hasattr(os, "posix_fallocate"):  # else a disk that fills up would end the process
            os.posix_fallocate(handle, 0, _bytes(sizes))
        os.close(handle)
        flat = np.memmap(name, np.uint8, "w+", shape=(_bytes(sizes),))
        _fill(flat, items, sizes, steps)
        flat.flush()
        del flat  # Windows renames no file that is mapped
        os.chmod(name, 0o644)
        os.replace(name, file)
    finally:
        Path(name).unlink(missing_ok=True)


def _sizes(items: Sequence[Item], steps: Preprocessing) -> list[tuple[int, int]]:
    if steps.resize == "squash":  # needs no look at the files
        return [steps.size] * len(items)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda item: steps.resized_size(*size_of(item.source)), items))


def _bytes(sizes: Sequence[tuple[int, int]]) -> int:
    return sum(3 * height * width for height, width in sizes)


def _check(sizes: Sequence[tuple[int, int]], allowed: float, where: str, instead: str) -> None:
    needed = _bytes(sizes)
    if needed > allowed:
        raise UsageError(
            f"cache: {where} needs {needed / 1e9:.2f} GB for {len(sizes):,} images, and "
            f"{allowed / 1e9:.2f} GB may be used; set cache to {instead}, or cache_gb higher"
        )


def _fill(
    flat: NDArray[np.uint8],
    items: Sequence[Item],
    sizes: Sequence[tuple[int, int]],
    steps: Preprocessing,
) -> None:
    starts = [0, *accumulate(3 * h * w for h, w in sizes)]

    def decode(index: int) -> None:
        image = steps.resized(load(items[index].source))
        flat[starts[index] : starts[index + 1]] = image.numpy().reshape(-1)

    with ThreadPoolExecutor() as pool:  # decoders release the interpreter lock
        for _ in pool.map(decode, range(len(items))):
            pass


def _identity(items: Sequence[Item], steps: Preprocessing) -> str:
    settings = asdict(steps)
    for later in "augment", "mean", "std":
        del settings[later]
    decoder = [PIL.__version__, torchvision.__version__, _FORMAT]
    digest = hashlib.sha256(json.dumps([settings, decoder]).encode())
    for source, _ in items:
        if isinstance(source, Path):
            status = source.stat()
            digest.update(f"{source.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            continue
        held = source.read() if isinstance(source, Record) else source
        digest.update(
            held if isinstance(held, bytes) else repr(held.shape).encode() + held.tobytes()
        )
    return digest.hexdigest()[:24]


def _available_memory() -> float:
    """Return bytes that this process can have without swapping, as far as the system tells.

    The limit of a container counts; the processes of a node share what there is.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable"))
        memory = 1024.0 * int(available)
    except (OSError, ValueError):  # no Linux
        memory = _UNKNOWN
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        memory = min(memory, max(0.0, float(limit - used)))
    return memory / int(os.environ.get("LOCAL_WORLD_SIZE", 1))

"""Images decoded and resized once, and kept as uint8 in memory or in a memory-mapped file."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from pcvpt.data.hashes import digest
from pcvpt.data.image_files import in_threads, load, size_of
from pcvpt.data.splits import Item
from pcvpt.data.transforms import Preprocessing
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import atomic_file

Cache = Literal["none", "memory", "disk"]
Sizes = Sequence[tuple[int, int]]

_FORMAT = 1  # of the cached pixels; raised when decoding or resizing changes
_UNKNOWN = 4e9  # bytes assumed to be available where the system does not tell
_CGROUP = Path("/sys/fs/cgroup")


class Pixels:
    """Resized images (3, h, w) of the given sizes, one after the other in one uint8 array."""

    def __init__(self, flat: NDArray[np.uint8], sizes: Sizes) -> None:
        self.sizes = sizes
        self.starts = _starts(sizes)
        self._flat = torch.from_numpy(flat)
        alike = len(set(sizes)) == 1
        self._stacked = self._flat.view(len(sizes), 3, *sizes[0]) if alike else None

    def __getitem__(self, index: int) -> Tensor:
        """Return one image, (3, h, w), which must not be written to."""
        height, width = self.sizes[index]
        part = self._flat[self.starts[index] : self.starts[index + 1]]
        return part.view(3, height, width)

    def batch(self, indices: Sequence[int]) -> Tensor | None:
        """Return (b, 3, h, w) by one copy, or None when images differ in size."""
        return None if self._stacked is None else self._stacked[torch.tensor(indices)]


def cached(
    items: Sequence[Item], steps: Preprocessing, folder: Path | None, budget: float | None
) -> Pixels:
    """Decode and resize ``items`` into memory or a file, or map the file of an earlier run.

    The file's name is a hash of the images and of how they are resized, so that a changed image or
    protocol gets a new file. Without a folder, images are kept in memory. ``budget`` is the memory
    or disk space that may be used, in GB. None allows half of the available memory, or nine tenths
    of the free disk space.

    Raises:
        UsageError: If the images do not fit, before any is decoded; or if one cannot be decoded.
    """
    sizes = _sizes(items, steps)
    starts = _starts(sizes)
    images = in_threads(lambda item: steps.resized(load(item.source)).numpy().ravel(), items)
    if folder is None:
        allowed = _available_memory() / 2 if budget is None else budget * 1e9
        _check(sizes, allowed, "memory", "disk, or none")
        flat = np.empty(starts[-1], np.uint8)
        for start, image in zip(starts, images, strict=False):
            flat[start : start + image.size] = image
        return Pixels(flat, sizes)
    try:
        file = folder / f"{_identity(items, steps)}.uint8"
        if not file.is_file() or file.stat().st_size != starts[-1]:
            folder.mkdir(parents=True, exist_ok=True)
            free = 0.9 * shutil.disk_usage(folder).free
            allowed = free if budget is None else min(free, budget * 1e9)
            _check(sizes, allowed, "disk", "none, or another cache_folder")
            # Two runs may write the same cache at once, so each has a file of its own at first.
            own = folder / uuid4().hex
            with atomic_file(own) as written:
                for image in images:
                    written.write(image.data)
            own.replace(file)
        # Mapped copy-on-write: torch has no read-only tensors, and nothing may change the file.
        return Pixels(np.memmap(file, np.uint8, "c"), sizes)
    except OSError as error:
        raise UsageError(
            f"{folder}: the cache of images cannot be kept here ({error}); set cache_folder"
        ) from error


def _sizes(items: Sequence[Item], steps: Preprocessing) -> Sizes:
    if steps.resize == "squash":  # the files need not be opened
        return [steps.size] * len(items)
    return list(in_threads(lambda item: steps.resized_size(*size_of(item.source)), items))


def _starts(sizes: Sizes) -> list[int]:
    """Return the position of each image's first value, and the number of all values."""
    return [0, *accumulate(3 * height * width for height, width in sizes)]


def _check(sizes: Sizes, allowed: float, where: str, instead: str) -> None:
    needed = _starts(sizes)[-1]
    if needed > allowed:
        raise UsageError(
            f"cache: {where} needs {needed / 1e9:.2f} GB for {len(sizes):,} images, and "
            f"{allowed / 1e9:.2f} GB may be used; set cache to {instead}, or cache_gb higher"
        )


def _identity(items: Sequence[Item], steps: Preprocessing) -> str:
    settings = asdict(steps)
    for later in "augment", "mean", "std":
        del settings[later]
    decoder = [PIL.__version__, torchvision.__version__, _FORMAT]
    hashed = hashlib.sha256(json.dumps([settings, decoder]).encode())
    for source, _ in items:
        if isinstance(source, Path):
            status = source.stat()
            hashed.update(os.fsencode(source.resolve()))
            hashed.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            continue
        hashed.update(digest(source).encode())
    return hashed.hexdigest()[:24]


def _available_memory() -> float:
    """Return the bytes that this process can have without swapping, as far as the system tells.

    The limit of a container counts; the processes of a node share the memory.
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

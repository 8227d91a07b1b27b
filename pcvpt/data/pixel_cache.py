"""Images decoded and resized once, and kept as uint8 in memory, on a device or in a mapped file."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor

from pcvpt.data.hashes import sources_hash
from pcvpt.data.image_files import check_images, in_threads, load, size_of
from pcvpt.data.splits import Item
from pcvpt.data.transforms import Preprocessing
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import atomic_file

Cache = Literal["none", "memory", "disk", "device"]
Sizes = Sequence[tuple[int, int]]

_FORMAT = 1  # of the cached pixels; raised when decoding or resizing changes
_UNKNOWN = 4e9  # bytes assumed to be available where the system does not tell
_CGROUP = Path("/sys/fs/cgroup")


class Pixels:
    """Images (3, h, w) of the given sizes, one after the other in one uint8 tensor."""

    def __init__(self, flat: Tensor, sizes: Sizes) -> None:
        self.sizes = sizes
        self.starts = _starts(sizes)
        self._flat = flat
        alike = len(set(sizes)) == 1
        self._stacked = self._flat.view(len(sizes), 3, *sizes[0]) if alike else None

    def __getitem__(self, index: int) -> Tensor:
        """Return one image, (3, h, w), which must not be written to."""
        height, width = self.sizes[index]
        part = self._flat[self.starts[index] : self.starts[index + 1]]
        return part.view(3, height, width)

    def batch(self, indices: Sequence[int]) -> Tensor | None:
        """Return (b, 3, h, w) by one copy, or None when images differ in size."""
        if self._stacked is None:
            return None
        # In brackets, these numbers would take five times as long. No copy of them is waited for.
        places = torch.tensor(indices).to(self._stacked.device, non_blocking=True)
        return self._stacked.index_select(0, places)


def cached(
    items: Sequence[Item],
    steps: Preprocessing,
    where: Path | torch.device | None,
    budget: float | None,
) -> Pixels:
    """Decode and resize ``items`` into memory or a file, or map the file of an earlier run.

    Without augmentation they are cut too, so that a batch is one copy. The file's name is a hash of
    the images and of how they are prepared, so that a changed image or protocol gets a new file.

    Args:
        items: Images.
        steps: Their preprocessing.
        where: Folder of the file, or device that keeps the images. None for memory.
        budget: Memory or disk space that may be used, in GB. None allows half of the memory that is
            free, or nine tenths of the free disk space.

    Raises:
        UsageError: If the images do not fit, before any is decoded; or if one cannot be decoded.
    """
    sizes = _sizes(items, steps)
    starts = _starts(sizes)

    def prepare(item: Item) -> Any:
        image = steps.resized(load(item.source))
        return (image if steps.augment else steps.cut(image)).numpy().ravel()

    images = in_threads(prepare, items)
    if not isinstance(where, Path):
        device = where or torch.device("cpu")
        allowed = _available_memory(device) / 2 if budget is None else budget * 1e9
        _check(sizes, allowed, *(("device", "memory, disk") if where else ("memory", "disk")))
        flat = torch.empty(starts[-1], dtype=torch.uint8, device=device)
        for start, image in zip(starts, images, strict=False):
            flat[start : start + image.size] = torch.from_numpy(image)
        return Pixels(flat, sizes)
    try:
        file = where / f"{_identity(items, steps)}.uint8"
        if not file.is_file() or file.stat().st_size != starts[-1]:
            where.mkdir(parents=True, exist_ok=True)
            free = 0.9 * shutil.disk_usage(where).free
            allowed = free if budget is None else min(free, budget * 1e9)
            _check(sizes, allowed, "disk", "memory")
            # Two runs may write the same cache at once, so each has a file of its own at first.
            own = where / uuid4().hex
            with atomic_file(own) as written:
                for image in images:
                    written.write(image.data)
            own.replace(file)
        # Mapped copy-on-write: torch has no read-only tensors, and nothing may change the file.
        return Pixels(torch.from_numpy(np.memmap(file, np.uint8, "c")), sizes)
    except OSError as error:
        raise UsageError(
            f"{where}: the cache of images cannot be kept here ({error}); set cache_folder"
        ) from error


def check_once(paths: Sequence[Path], folder: Path) -> None:
    """Decode every file, as :func:`~pcvpt.data.image_files.check_images` does.

    A note in ``folder`` tells later starts that these files, unchanged, need no second check.
    """
    note = folder / f"{sources_hash(paths, PIL.__version__)}.checked"
    if paths and not note.is_file():
        check_images(paths)
        with suppress(OSError):  # then they are checked again
            folder.mkdir(parents=True, exist_ok=True)
            note.touch()


def _sizes(items: Sequence[Item], steps: Preprocessing) -> Sizes:
    if steps.resize == "squash" or not steps.augment:  # the files need not be opened
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
            f"{allowed / 1e9:.2f} GB may be used; set cache to {instead} or none, or raise cache_gb"
        )


def _identity(items: Sequence[Item], steps: Preprocessing) -> str:
    settings = asdict(steps)
    for later in "augment", "mean", "std":
        del settings[later]
    if steps.resize == "crop" and not steps.augment:
        settings["cut"] = True
    decoder = [PIL.__version__, torchvision.__version__, _FORMAT]
    return sources_hash((source for source, _ in items), [settings, decoder])


def _available_memory(device: torch.device) -> float:
    """Return the bytes that this process can have on ``device``, as far as the system tells.

    On the CPU without swapping; the limit of a container counts, and the processes of a node share
    the memory.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
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

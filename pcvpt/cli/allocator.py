"""Large tensors on the CPU without a page fault for every 4 KB of every batch."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory of any size for the next allocation; return whether it does.

    By default glibc maps each block above 32 MB afresh and returns it when it is freed. The system
    then clears and maps all its pages again in every step: a sixth of a training step of a small
    ViT on the CPU (``benchmarks/allocation.py``). The setting is for the whole process, so the
    command makes it and the library does not. Other allocators and systems stay as they are.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return False
    set_map = mallopt(_M_MMAP_THRESHOLD, _LARGEST)  # 0: an old glibc allows no more than 32 MB
    return bool(set_map and mallopt(_M_TRIM_THRESHOLD, _LARGEST))

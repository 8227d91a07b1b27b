"""Large tensors on the CPU without a page fault for every 4 KB of every batch."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next allocation, whatever its size; say if it does.

    By default it maps each block above 32 MB anew and gives it back when freed, so that the system
    clears and maps all its pages again in every step: a sixth of a training step of a small ViT on
    the CPU (``benchmarks/allocation.py``). It is for the process as a whole, so the command asks
    for it and the library does not. Other allocators and systems are left as they are.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return False
    set_map = mallopt(_M_MMAP_THRESHOLD, _LARGEST)  # 0: an old glibc allows no more than 32 MB
    return bool(set_map and mallopt(_M_TRIM_THRESHOLD, _LARGEST))

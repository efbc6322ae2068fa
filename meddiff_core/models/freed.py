"""What the layers of a network free, the next ones ask for again: it stays with the process."""

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST = 1 << 30, 32 << 20
"""Bytes that a process may keep free, and the largest block that comes from them (more glibc does not allow)."""


@cache
def keep_freed_memory() -> None:
    """Have this process keep free memory, instead of giving it back and having every page of it zeroed again.

    Dask asks of its workers to give back all at once (`MALLOC_TRIM_THRESHOLD_`), with which drawing takes 1.4 times as
    long. Does nothing where the C library is another one than glibc.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)

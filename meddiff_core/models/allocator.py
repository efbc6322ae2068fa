"""The C allocator's settings: memory that the layers of a network free stays with the process for the next ones."""

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST = 1 << 30, 32 << 20
"""Bytes that a process may keep free, and the largest block that comes from them (more glibc does not allow)."""


@cache
def keep_freed_memory() -> None:
    """Have this process keep freed memory, instead of giving it back and having every page of it zeroed again.

    Dask lets its workers give all of it back at once (`MALLOC_TRIM_THRESHOLD_`), with which sampling takes 1.4 times as
    long. Does nothing where the C library is another one than glibc.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)

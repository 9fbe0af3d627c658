"""Keep peak memory at what is in use, so that it does not grow with the slide."""

from __future__ import annotations

import ctypes
import gc

from spatia.machine import return_freed_memory

_M_MMAP_THRESHOLD = -3  # of malloc.h
_BLOCK_BYTES = 2**18


def return_large_blocks() -> None:
    """Have glibc take blocks from 256 KiB on straight from the system, and give them back when they are freed.

    By default it raises that limit to the largest block ever freed; then freed tables and image blocks pile up in its
    heap, 130 MB of them on a whole slide.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only; elsewhere there is nothing to call
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)


def release_memory() -> None:
    """Return freed memory to the system; glibc and arrow keep it for later use otherwise."""
    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()
    return_freed_memory()

"""What the machine gives this process."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any


def available_cpus() -> int:
    """Return the CPUs this process may use: SLURM's grant if there is one, else its affinity.

    ``snakemake --cores all`` caps a job's threads at the submitting machine's CPUs, also under
    SLURM (snakemake #2997), so the grant, not ``{threads}``, is the truth.
    """
    granted = os.environ.get("SLURM_CPUS_PER_TASK")
    return int(granted) if granted else len(os.sched_getaffinity(0))


def return_freed_memory() -> None:
    """Have glibc return freed memory to the system; blocks of many sizes otherwise leave gaps that it keeps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; elsewhere there is nothing to call
    if trim is not None:
        trim(0)


def release_pages(mapped: Any) -> None:
    """Give back the memory that pages of a mapped file take, here only: they stay in the system's cache.

    ``mapped`` is an array over a file; of any other array nothing is released.
    """
    while mapped is not None and not isinstance(mapped, mmap.mmap):
        mapped = getattr(mapped, "base", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on every system; what stays is harmless
        mapped.madvise(mmap.MADV_DONTNEED)

"""What a host has to give: memory for buffers, and for data that are to stay in the page cache."""

from __future__ import annotations

import os

from .workload import WorkloadError

MEMORY_SHARE = 0.5
WARM_RAM_SHARE = 0.25


def ram_bytes() -> int:
    """Memory of this host."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_room_to_warm(total_bytes: int) -> None:
    """Raise WorkloadError where data are too many to stay in the page cache while they are read."""
    limit = WARM_RAM_SHARE * ram_bytes()
    if total_bytes > limit:
        raise WorkloadError(
            f"warm reads need data of at most a quarter of memory ({limit / 1e9:.1f} GB), "
            f"these are {total_bytes / 1e9:.1f} GB; name fewer files"
        )


def require_memory(num_bytes: int, what: str, *, way_out: str) -> None:
    """Raise WorkloadError where buffers would take more than half of the memory that is free."""
    import psutil

    free = MEMORY_SHARE * psutil.virtual_memory().available
    if num_bytes > free:
        raise WorkloadError(
            f"{what} need {num_bytes / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB may be taken; {way_out}"
        )

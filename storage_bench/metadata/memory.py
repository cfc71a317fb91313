"""Names, sizes and times of files that this client keeps in memory, and how they are put out of it.

    dirty files -> written back (syncfs) -> pages of the files evicted: inodes with pages are not let go of
                -> the kernel's names and inodes dropped (/proc/sys/vm/drop_caches, those of all files: only root may)
                -> the disks' buffers evicted, which hold the folder's blocks and inodes

Where a container does not let us open the disks, the kernel drops all clean pages instead, which includes theirs.  No
other way exists to forget names without unmounting; what a file server keeps is not touched by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ...loaders.page_cache import evict
from ...results.mounts import block_devices, mount_of
from ..durable import sync_file_system

DROP = Path("/proc/sys/vm/drop_caches")
NAMES_AND_INODES, EVERYTHING = "2", "3"


def cannot_drop_names() -> str | None:
    """Why this process cannot make the kernel forget names, or None."""
    if os.access(DROP, os.W_OK):
        return None
    return "only root can make a client forget the names it keeps"


def drop_names(folder: Path, *, with_pages: Iterable[str] = ()) -> None:
    """Have this client forget names and inodes below `folder`; `with_pages` are files that may be in memory."""
    sync_file_system(folder)
    evict(Path(name) for name in with_pages)
    DROP.write_text(NAMES_AND_INODES)
    devices = [Path("/dev") / device["name"] for device in block_devices(mount_of(folder))]
    if not all(map(_evict_buffers, devices)):
        DROP.write_text(EVERYTHING)


def _evict_buffers(device: Path) -> bool:
    """Write back and forget a disk's buffers; whether it let us."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    return True

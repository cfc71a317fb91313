"""What was written, brought to the disk: the names in a folder, or a file system as a whole."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


def sync_folder(folder: Path) -> None:
    """Bring the folder's names to the disk: what was renamed or made in it is there after a crash."""
    with _opened(folder) as fd:
        os.fsync(fd)


def sync_file_system(folder: Path) -> None:
    """Bring all that was written to the file system of `folder` to its disk: one call where files are many.

    Raises OSError where writing back has failed (Linux 5.8; syncfs(2)).
    """
    with _opened(folder) as fd:
        if _libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, f"syncfs: {os.strerror(number)}", str(folder))


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)

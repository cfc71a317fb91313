"""One process at a time, by a lock on a file (flock) that goes with whoever holds it, however that one ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[int | None]:
    """The file of this name, open and held by nobody else; None where another one holds it and `wait` is off.

    It is gone after the block: renamed, or not wanted.  Who waited for it may hold a file that has no name any
    more, and looks again.  Raises OSError where it cannot be made.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            if not _is_still(fd, path):
                continue
            try:
                yield fd
            finally:
                if _is_still(fd, path):
                    path.unlink()
                fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked meanwhile holds it, too, for as long as it lives
            return
        finally:
            os.close(fd)


def _is_still(fd: int, path: Path) -> bool:
    """Whether the open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False

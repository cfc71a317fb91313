"""One process at a time, by a lock on a file (flock) that goes with whoever holds it, however that one ends."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TOLD_AFTER_S = 1.0
_LOCKS = Path("/proc/locks")
_log = logging.getLogger("iobench")


@contextmanager
def locked(path: Path, *, wait: bool, doing: str) -> Iterator[int | None]:
    """The file of this name, open and held by nobody else; None where another one holds it and `wait` is off.

    It is gone after the block: renamed, or not wanted.  Who waited for it may hold a file that has no name any
    more, and looks again; that it waits, and for whom, is a warning of the logger `iobench` after a second, where
    `doing` says what the holder does ("builds the index of DIR").  Raises OSError where the file cannot be made.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield None
                    return
                _wait(fd, path, doing)
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


def _wait(fd: int, path: Path, doing: str) -> None:
    """Hold the lock as soon as nobody else does; a silent program looks like one that hangs."""

    def tell() -> None:
        _log.warning("waiting for %s, which %s (%s)", holder_of(fd), *map(_as_text, (doing, path)))

    timer = threading.Timer(TOLD_AFTER_S, tell)
    timer.daemon = True
    timer.start()
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        timer.cancel()


def holder_of(fd: int) -> str:
    """Who holds the lock on an open file, in words: `process 4711 (python)`, where the kernel tells (proc_locks(5))."""
    status = os.fstat(fd)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError, ValueError):
        for line in _LOCKS.read_text().splitlines():
            words = line.split()
            if "->" not in words and words[5] == place and (pid := int(words[4])) > 0:
                return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    return "another process, on another machine maybe"


def _as_text(name: object) -> str:
    """A name of any bytes, spelled so that every log can hold it."""
    return str(name).encode(errors="backslashreplace").decode()


def _is_still(fd: int, path: Path) -> bool:
    """Whether the open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False

"""One shard on its way to the disk: hashed in order, written past the page cache where the file system has that."""

from __future__ import annotations

import errno
import fcntl
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import xxhash

from .forms import ALIGNMENT_BYTES

_SYNC_BYTES = 64 << 20  # bounds the wait in fsync, and so the answer to Ctrl-C, where writes go through the page cache


class ShardWriter:
    """One shard under its temporary name, from first byte to fsync; one chunk is being written behind the caller."""

    def __init__(self, path: Path, pool: ThreadPoolExecutor) -> None:
        self.num_bytes = 0
        self._pool = pool
        self._behind: Future[None] | None = None
        self._hash = xxhash.xxh3_128()
        self._unsynced_bytes = 0
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        self._direct = self._set_direct(True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._behind:
            self._behind.exception()
        os.close(self._fd)

    def append(self, buffer: memoryview, num_bytes: int) -> None:
        """Start to write the first `num_bytes` of `buffer`, which is in use until the next call or `finish` returns.

        Past the page cache they go out rounded up; `finish` cuts the surplus off.
        """
        self._hash.update(buffer[:num_bytes])
        self._wait()
        data = buffer[: -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES]
        self._behind = self._pool.submit(self._write, data, self.num_bytes)
        self.num_bytes += num_bytes

    def finish(self) -> str:
        """Bring everything to the disk and return the digest."""
        self._wait()
        os.ftruncate(self._fd, self.num_bytes)
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return self._hash.hexdigest()

    def _wait(self) -> None:
        if self._behind:
            self._behind.result()

    def _write(self, data: memoryview, at: int) -> None:
        while data:
            try:
                written = os.pwrite(self._fd, data, at)
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._direct = self._set_direct(False)  # taken before, refused now: some FUSE file systems do that
                continue
            data, at = data[written:], at + written
            self._unsynced_bytes += written
        if not self._direct and self._unsynced_bytes >= _SYNC_BYTES:
            os.fdatasync(self._fd)
            self._unsynced_bytes = 0

    def _set_direct(self, wanted: bool) -> bool:
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | (os.O_DIRECT if wanted else 0))
        except OSError:
            return False
        return wanted

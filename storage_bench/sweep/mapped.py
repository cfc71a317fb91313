"""Reads through a shared mapping: pages come into the page cache and into this process's tables, nothing is copied.

    one mapping of each file (MAP_SHARED, read-only), for all threads
    a read    cold: MADV_WILLNEED of its range, for requests as large -> MADV_POPULATE_READ: all of it is there
    behind    cold: MADV_DONTNEED, since what is mapped cannot be evicted -> POSIX_FADV_DONTNEED

Populating needs Linux 5.14.  Readahead is off where reads are to be cold: it would bring pages that nobody evicts.
An I/O error and a file cut short are errors of populating, never a signal.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...loaders.engines.open_files import OpenFile
from ...loaders.engines.readers import BufferedReader, ReadError
from ...loaders.page_cache import PAGE_BYTES, evict_range

MADV_POPULATE_READ = 22

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class MappedFile:
    """A whole file, mapped as long as this lives."""

    def __init__(self, file: OpenFile, path: Path, *, cold: bool) -> None:
        self.file = file
        self.path = path
        self.cold = cold
        self.size_bytes = os.fstat(file.fd).st_size
        self._pages = mmap.mmap(file.fd, self.size_bytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        self._view = np.frombuffer(self._pages, dtype=np.uint8)
        self._address = self._view.ctypes.data
        if cold:
            _libc.madvise(self._address, self.size_bytes, mmap.MADV_RANDOM)

    def populate(self, length: int, offset: int) -> int:
        """Have up to `length` bytes from `offset` (a multiple of the page size) present; how many there are."""
        count = min(length, self.size_bytes - offset)
        if count <= 0:
            return 0
        if self.cold:
            _libc.madvise(self._address + offset, count, mmap.MADV_WILLNEED)
        if _libc.madvise(self._address + offset, count, MADV_POPULATE_READ) != 0:
            raise OSError(ctypes.get_errno(), "populating a mapping failed")
        return count

    def shown(self, offset: int, count: int) -> npt.NDArray[np.uint8]:
        """A range as an array over the page cache; valid while this lives, and while the file is as long."""
        return self._view[offset : offset + count]

    def let_go(self, offset: int, count: int) -> None:
        """Unmap the pages of a range, and put them out of the page cache."""
        skew = offset % PAGE_BYTES
        _libc.madvise(self._address + offset - skew, count + skew, mmap.MADV_DONTNEED)
        evict_range(self.file.fd, offset, count)


class MappedReads:
    """Populates ranges of mapped files."""

    def __init__(self, *, cold: bool) -> None:
        self._cold = cold
        self._reader = BufferedReader()
        self._files: dict[Path, MappedFile] = {}
        self._lock = threading.Lock()
        self.after = self._let_go if cold else None

    def handle(self, path: Path) -> tuple[MappedFile, object]:
        """The mapping of a file; raises ReadError where it cannot be mapped."""
        with self._lock:
            if path not in self._files:
                try:
                    self._files[path] = MappedFile(self._reader.opened(path), path, cold=self._cold)
                except (OSError, ValueError) as error:
                    if isinstance(error, ReadError):
                        raise
                    text = f"cannot be mapped ({error}); use --engine buffered"
                    raise ReadError(errno.ENODEV, text, str(path)) from error
            file = self._files[path]
        return file, file

    def targets(self) -> type[int]:
        """No memory: the pages are the target."""
        return int

    @staticmethod
    def do(file: MappedFile, length: int, offset: int) -> int:
        """Have a range present, and the pages that it begins and ends in."""
        skew = offset % PAGE_BYTES
        return max(0, file.populate(length + skew, offset - skew) - skew)

    def complete(self, path: Path, offset: int, target: int, need: int) -> int:  # noqa: ARG002
        """Say what went wrong: populating is whole or an error."""
        file = self.handle(path)[0]
        now = os.fstat(file.file.fd).st_size
        if now < offset + need:
            text = f"the file ends at byte {now}, {offset + need - now} bytes before this read does"
        else:
            text = f"reading {need} bytes at byte {offset} through a mapping failed: an I/O error"
        raise ReadError(errno.EIO, text, str(path))

    def counters(self) -> dict[str, int]:
        """Nothing: the kernel counts."""
        return {}

    def close(self) -> None:
        """Unmap everything, once nobody reads any more."""
        with self._lock:
            self._files.clear()
        self._reader.close()

    @staticmethod
    def _let_go(file: MappedFile, _length: int, offset: int, count: int) -> None:
        file.let_go(offset, count)


def populating_refused(sample: Path) -> str | None:
    """Why files cannot be read through mappings here, or None; one page is really populated."""
    way = MappedReads(cold=False)
    try:
        way.do(way.handle(sample)[0], PAGE_BYTES, 0)
    except ReadError as error:
        return str(error.strerror)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return "this kernel does not populate mappings (MADV_POPULATE_READ, Linux 5.14)"
        raise
    finally:
        way.close()
    return None

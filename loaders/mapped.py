"""The mmap engine: batches as views on the page cache itself, for local files.

    one run of records     mapping ---------------------------------> view of the mapping, no read and no copy
    several runs           mapping --one copy per record--> slots of a pool buffer

Reader threads populate a range ahead of the loop (MADV_POPULATE_READ, Linux 5.14): its pages come in and its page
tables are set up there, so that the loop does not fault.  An I/O error or a file cut short then is a ReadError of
that range; a page lost later is SIGBUS, as with every mapping, so a file's size is checked before each epoch.

A mapping is private: writing to a batch changes that batch, never the file.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .page_cache import PAGE_BYTES
from .readers import ReadError

_MADV_POPULATE_READ = 22
_MAP_NORESERVE = 0x4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _Mapping:
    """One file, mapped whole: bytes as an array, and where it lies."""

    __slots__ = ("address", "data")

    def __init__(self, path: Path) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ReadError(error.errno, f"cannot be opened: {error.strerror}", str(path)) from error
        try:
            flags, access = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            pages = mmap.mmap(fd, 0, flags=flags, prot=access)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.EINVAL
            raise ReadError(number, f"cannot be mapped ({error}); use --engine buffered", str(path)) from error
        finally:
            os.close(fd)
        self.data: npt.NDArray[np.uint8] = np.frombuffer(pages, dtype=np.uint8)
        self.address = self.data.ctypes.data


class MappedReader:
    """A Reader over mapped files, which can also show them without reading."""

    engine = "mmap"
    alignment_bytes = 1
    scatters = True

    def __init__(self) -> None:
        self.delivered_bytes = 0
        self._lock = threading.Lock()
        self._mappings: dict[Path, _Mapping] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"delivered_bytes": self.delivered_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]  # a copy in another process maps the files itself
        self.delivered_bytes = state["delivered_bytes"]

    def read(self, path: Path, offset: int, target: memoryview, *, need: int | None = None) -> int:
        """Copy from the mapping; see Reader."""
        return self.scatter(path, offset, [target], need=need)

    def scatter(self, path: Path, offset: int, targets: Sequence[memoryview], *, need: int | None = None) -> int:
        """Copy consecutive bytes from the mapping into several places; see Reader."""
        data = self._mapping(path).data
        need = sum(map(len, targets)) if need is None else need
        if offset + need > len(data):
            raise self._cut(path, offset, need, len(data))
        at = offset
        for target in targets:
            count = min(len(target), len(data) - at)
            np.frombuffer(target, dtype=np.uint8)[:count] = data[at : at + count]
            at += count
        self._count(at - offset)
        return at - offset

    def view(self, path: Path, offset: int, length: int) -> memoryview:
        """`length` bytes of the file from `offset`, as the page cache holds them; a view keeps its mapping alive."""
        data = self._mapping(path).data
        if offset + length > len(data):
            raise self._cut(path, offset, length, len(data))
        return data[offset : offset + length].data

    def populate(self, path: Path, offset: int, length: int) -> int:
        """Bring a range in and set up its page tables; returns `length`.  ReadError where pages cannot be read."""
        mapping = self._mapping(path)
        start = offset - offset % PAGE_BYTES
        address, size = mapping.address + start, offset + length - start
        if _libc.madvise(address, size, _MADV_POPULATE_READ) != 0:
            number = ctypes.get_errno()
            if number != errno.EINVAL:  # EINVAL: a kernel older than 5.14; the loop then faults page by page
                text = f"reading {length} bytes at byte {offset} through a mapping failed ({os.strerror(number)})"
                raise ReadError(errno.EIO, f"{text}: an I/O error, or the file was cut short", str(path))
            _libc.madvise(address, size, mmap.MADV_WILLNEED)
        self._count(length)
        return length

    def check_sizes(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        """Raise where a file is no longer as long as it was indexed: touching what is gone would be SIGBUS."""
        for path, size in zip(paths, sizes, strict=True):
            if (found := path.stat().st_size) != size:
                raise self._cut(path, 0, size, found)

    def close(self) -> None:
        """Let go of every mapping; one that a batch still looks at stays until the batch is gone."""
        with self._lock:
            self._mappings.clear()

    def _mapping(self, path: Path) -> _Mapping:
        found = self._mappings.get(path)
        if found is None:
            with self._lock:
                found = self._mappings.get(path) or self._mappings.setdefault(path, _Mapping(path))
        return found

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.delivered_bytes += num_bytes

    def _cut(self, path: Path, offset: int, need: int, size: int) -> ReadError:
        return ReadError(
            errno.EIO,
            f"the file ends at byte {size}, before the {need} bytes from byte {offset} do; it is not as long as when "
            f"it was indexed: copy or create it again, then run `iobench index`",
            str(path),
        )

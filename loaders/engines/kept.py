"""Files that stay mapped from epoch to epoch, so that the page tables of a warm data set are set up once.

    view()        a fresh memoryview over the mapped file, unless somebody still looks at a part of that range
    last view of it dies -> a weak reference appends itself to a deque -> look_after(): was anything written there?

Setting up and tearing down page tables costs about as much as copying the bytes.  The mapping is private: a write to a
batch makes copies of its pages, which a later epoch would see.  The kernel tells of such pages (bits 61 to 63 of
/proc/self/pagemap, see pagemap.rst in its documentation); where it does, nothing is kept mapped from then on, and each
batch gets a mapping of its own, as where the kernel does not tell.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..page_cache import PAGE_BYTES
from ..remote import ShardPath
from .open_files import OpenFile
from .readers import Request

UNLOCKED_BYTES = 64 << 10  # from here on numpy copies, without the interpreter's lock; below, letting go costs more
_MAP_NORESERVE = 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value
_OF_FILE, _SWAPPED, _PRESENT = np.uint64(1 << 61), np.uint64(1 << 62), np.uint64(1 << 63)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


@dataclass(slots=True)
class _KeptFile:
    """One file, mapped as a whole; `pages` keeps it mapped, and every view keeps `pages`."""

    pages: Any
    memory: memoryview
    array: npt.NDArray[np.uint8]
    address: int
    size_bytes: int
    in_use: set[tuple[int, int]] = field(default_factory=set)  # ranges that views show, or whose end is not looked at

    def is_in_use(self, start: int, stop: int) -> bool:
        return any(first < stop and start < last for first, last in self.in_use)


class KeptFiles:
    """The files of a reader that stay mapped in this process.  Views are asked for by one thread at a time."""

    def __init__(self) -> None:
        self._files: dict[ShardPath, _KeptFile] = {}
        self._returned: deque[weakref.ref[Any]] = deque()
        self._handed_out: dict[int, tuple[weakref.ref[Any], _KeptFile, tuple[int, int]]] = {}
        self._lock = threading.RLock()
        self._written = False
        self._pagemap = -1
        with suppress(OSError):  # a system that does not tell
            self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Any = os.close) -> None:
        if self._pagemap >= 0:
            close(self._pagemap)

    @property
    def keeps(self) -> bool:
        """Whether files are kept mapped: the kernel tells of written pages, and none was found yet."""
        return self._pagemap >= 0 and not self._written

    def view(self, fd: int, path: ShardPath, offset: int, length: int) -> tuple[memoryview, int] | None:
        """The range of the file and its address; None where it needs a mapping of its own."""
        with self._lock:
            file, stop = self._opened(fd, path), offset + length
            if file is None or not self._is_free(file, offset, stop):
                return None
            window = (ctypes.c_ubyte * length).from_buffer(file.pages, offset)  # what memoryviews and arrays keep alive
            memory = memoryview(window).cast("B")
            reference = weakref.ref(window, self._returned.append)
            file.in_use.add((offset, stop))
            self._handed_out[id(reference)] = reference, file, (offset, stop)
            return memory, file.address + offset

    def copy(self, requests: Iterable[Request], opened: Callable[[ShardPath], OpenFile]) -> tuple[int, list[Request]]:
        """Do reads by copying from the mappings: the bytes copied, and the reads that need another way.

        What was copied counts only if no view shows it afterwards and nothing was found written: a user may have
        written to a view.
        """
        copied, others = 0, []
        last, file = None, None
        for request in requests:
            path, offset, targets, _ = request
            if path is not last:
                last, file = path, self._file(path, opened)
            stop = offset + (len(targets[0]) if len(targets) == 1 else sum(map(len, targets)))
            if file is None or stop > file.size_bytes:
                others.append(request)
                continue
            _fill(targets, file, offset)
            if self.keeps and (not file.in_use or self._is_free_now(file, offset, stop)):
                copied += stop - offset
            else:
                others.append(request)
        return copied, others

    def look_after(self) -> None:
        """See to ranges nobody looks at any more: a clean one may be shown again, a written page ends the keeping."""
        with self._lock:
            while self._returned:
                returned = self._returned.popleft()
                if id(returned) not in self._handed_out:  # Ctrl-C came in the middle of view()
                    continue
                _, file, (start, stop) = self._handed_out.pop(id(returned))
                if self.keeps and self._is_clean(file.address + start, stop - start):
                    file.in_use.discard((start, stop))
                else:
                    self._written = True
                    self._files.clear()
                    self._handed_out.clear()  # what views still show stays mapped until they are gone

    def is_present(self, address: int, length: int) -> bool:
        """Whether every page of the range is in the page tables, so that touching it faults nowhere."""
        entries = self._entries(address, length)
        return entries is not None and bool((entries & _PRESENT).all())

    def _is_clean(self, address: int, length: int) -> bool:
        entries = self._entries(address, length)
        if entries is None:
            return False
        written = ((entries & _PRESENT) != 0) & ((entries & _OF_FILE) == 0)
        return not (written | ((entries & _SWAPPED) != 0)).any()

    def _entries(self, address: int, length: int) -> npt.NDArray[np.uint64] | None:
        """The page table entries of a range; None where the kernel does not give them."""
        first, last = address // PAGE_BYTES, -(-(address + length) // PAGE_BYTES)
        try:
            told = os.pread(self._pagemap, (last - first) * 8, first * 8)
        except OSError:
            return None
        return np.frombuffer(told, dtype=np.uint64) if len(told) == (last - first) * 8 else None

    def _opened(self, fd: int, path: ShardPath) -> _KeptFile | None:
        if not self.keeps:
            return None
        file = self._files.get(path)
        if file is None and (file := _map_whole(fd)) is not None:
            self._files[path] = file
        return file

    def _file(self, path: ShardPath, opened: Callable[[ShardPath], OpenFile]) -> _KeptFile | None:
        with self._lock:
            if (found := self._files.get(path)) is not None:
                return found
            file = opened(path)  # kept until it is mapped
            return self._opened(file.fd, path)

    def _is_free_now(self, file: _KeptFile, start: int, stop: int) -> bool:
        with self._lock:
            return self._is_free(file, start, stop)

    def _is_free(self, file: _KeptFile, start: int, stop: int) -> bool:
        """Whether the range is the file's own bytes: no view shows it, which the user may have written to."""
        if file.is_in_use(start, stop):
            self.look_after()
        return self.keeps and stop <= file.size_bytes and not file.is_in_use(start, stop)


def _fill(targets: Sequence[memoryview], file: _KeptFile, offset: int) -> None:
    for target in targets:
        stop = offset + len(target)
        if len(target) >= UNLOCKED_BYTES:
            np.copyto(np.frombuffer(target, np.uint8), file.array[offset:stop])
        else:
            target[:] = file.memory[offset:stop]
        offset = stop


def _map_whole(fd: int) -> _KeptFile | None:
    """A private mapping of the whole file, without a file descriptor of its own; None where that is not possible."""
    size = os.fstat(fd).st_size
    access = mmap.PROT_READ | mmap.PROT_WRITE
    address = _libc.mmap(None, size, access, mmap.MAP_PRIVATE | _MAP_NORESERVE, fd, 0) if size else _MAP_FAILED
    if address is None or address == _MAP_FAILED:
        return None
    pages = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(pages, _libc.munmap, address, size).atexit = False
    memory = memoryview(pages).cast("B")
    return _KeptFile(pages, memory, np.frombuffer(memory, np.uint8), address, size)

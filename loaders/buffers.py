"""Batch buffers: page-aligned host memory that is reused once nobody looks at it any more.

    acquire() -> Buffer --readers fill it--> hand_out() -> a fresh owner array --torch views it-->
        last view dies -> a weak reference appends itself to a deque -> the next acquire() takes the buffer back

A batch the user holds is never overwritten: the reference is to the numpy array that every tensor and every view of it
keeps alive, and calls back when the last of them dies (a finalizer on a tensor would fire too early).  The callback
runs in whatever thread drops that view, and is deque.append itself: in a callback written in Python a Ctrl-C would be
printed and lost.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT_BYTES = 4096
HUGE_PAGE_BYTES = 2 << 20


class Use:
    """What a device still does with a buffer: `event` is passed once it is done; None where nothing is under way.

    It outlives its buffer, so that whoever gives the memory back can wait for it.
    """

    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event: Any = None

    def wait(self) -> None:
        """Have this thread wait until the device is done."""
        if self.event is not None:
            self.event.synchronize()


class Buffer:
    """One piece of anonymous memory, page-aligned; `memory` is its writable view.

    From 2 MiB on it begins at a huge page: a device then takes a large O_DIRECT read in few pieces, whose number would
    else be a matter of chance.  It is private: what a forked child holds does not change when this process reads on,
    and the other way round.  `use` is to be waited for before anything is written here.
    """

    __slots__ = ("__weakref__", "address", "memory", "size_bytes", "use")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        spare = HUGE_PAGE_BYTES if self.size_bytes >= HUGE_PAGE_BYTES else 0
        pages = mmap.mmap(-1, self.size_bytes + spare, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        skip = -start % HUGE_PAGE_BYTES if spare else 0
        self.memory = memoryview(pages)[skip : skip + self.size_bytes]
        self.address = start + skip
        self.use = Use()


class BufferPool:
    """Buffers of one size.  Those the user holds are his; a loader needs only its own few, so memory stays bounded.

    `num_free_kept` is how many idle buffers stay allocated.  All methods are called from the loader's own thread; only
    the callbacks come from elsewhere.
    """

    def __init__(self, size_bytes: int, *, num_free_kept: int) -> None:
        self.size_bytes = size_bytes
        self._num_free_kept = num_free_kept
        self._free: list[Buffer] = []
        self._returned: deque[Buffer | weakref.ref[Any]] = deque()
        self._handed_out: dict[int, tuple[weakref.ref[Any], Buffer]] = {}
        self._made: list[weakref.ref[Buffer]] = []

    @property
    def num_allocated(self) -> int:
        """How many buffers there are: idle, being read into, and held by the user."""
        return sum(made() is not None for made in self._made)

    def acquire(self, size_bytes: int = 0) -> Buffer:
        """A buffer nobody looks at: a returned one where there is one, else fresh memory.

        Where `size_bytes` is more than the pool's size the pool grows: smaller buffers are let go as they come back.
        """
        if size_bytes > self.size_bytes:
            self.size_bytes = size_bytes
            self._free.clear()
        self._take_back()
        if self._free:
            return self._pick()
        buffer = self._new()
        self._made = [made for made in self._made if made() is not None] + [weakref.ref(buffer)]
        return buffer

    def release(self, buffer: Buffer) -> None:
        """Give back a buffer that was never handed out."""
        self._returned.append(buffer)

    def hand_out(
        self, buffer: Buffer, *, shape: tuple[int, ...], dtype: npt.DTypeLike, strides: tuple[int, ...], offset: int
    ) -> npt.NDArray[Any]:
        """A fresh array over `buffer`; the buffer comes back when the last view of that array is gone."""
        owner: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=buffer.memory, offset=offset, strides=strides)
        reference = weakref.ref(owner, self._returned.append)
        self._handed_out[id(reference)] = reference, buffer
        return owner

    def _pick(self) -> Buffer:
        """One of the idle buffers: the last one, whose pages are still in the processor's cache."""
        return self._free.pop()

    def _new(self) -> Buffer:
        return Buffer(self.size_bytes)

    def _take_back(self) -> None:
        while self._returned:
            returned = self._returned.popleft()
            if isinstance(returned, Buffer):
                buffer = returned
            elif id(returned) in self._handed_out:  # it is not where Ctrl-C came in the middle of hand_out
                buffer = self._handed_out.pop(id(returned))[1]
            else:
                continue
            if len(self._free) < self._num_free_kept and buffer.size_bytes >= self.size_bytes:
                self._free.append(buffer)

"""Batch buffers: page-aligned host memory, lent as numpy arrays and reused (pool.py) once nobody looks at it."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from .pool import Pool

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


class BufferPool(Pool[Buffer]):
    """Host buffers of one size."""

    def hand_out(
        self, buffer: Buffer, *, shape: tuple[int, ...], dtype: npt.DTypeLike, strides: tuple[int, ...], offset: int
    ) -> npt.NDArray[Any]:
        """A fresh array over `buffer`; the buffer comes back when the last view of that array is gone."""
        owner: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=buffer.memory, offset=offset, strides=strides)
        self._lend(buffer, owner)
        return owner

    def _pick(self) -> Buffer:
        """The last one, whose pages are still in the processor's cache."""
        return self._free.pop()

    def _new(self) -> Buffer:
        return Buffer(self.size_bytes)

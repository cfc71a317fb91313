"""How one read is done: the seam at which the engines of a sweep differ.

handle(path)     what is open, kept while it is used      not timed
targets()        one thread's memory, by length           not timed
do(...)          the read alone                           timed
complete(...)    a read that failed or came up short: the loader's reader does it again, or says what is wrong
after(...)       pages put out again behind a cold read   not timed
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ...loaders.buffers import HUGE_PAGE_BYTES, Buffer
from ...loaders.engines.readers import BufferedReader, DirectReader
from ...loaders.page_cache import PAGE_BYTES, evict_range

Targets = Callable[[int], Any]

MOST_VIEWS = 1024


class Way(Protocol):
    """Does the reads or writes of one block; used by many threads at once."""

    def handle(self, path: Path) -> tuple[Any, object]:
        """What `do` takes for this file, and what must be kept alive as long as that is used."""

    def targets(self) -> Targets:
        """Memory of one thread: a function from a length to what `do` takes for it."""

    @property
    def do(self) -> Callable[[Any, Any, int], int]:
        """Read or write all of a target at an offset; returns the bytes moved, raises OSError."""

    @property
    def after(self) -> Callable[[Any, Any, int, int], None] | None:
        """What follows a read outside of its time: handle, target, offset, bytes moved."""

    def complete(self, path: Path, offset: int, target: Any, need: int) -> int:
        """Do what `do` did not; raises an error with file and offset where that is not possible."""

    def counters(self) -> dict[str, int]:
        """What this way counts by itself."""

    def close(self) -> None:
        """Let go of every file."""


class HostMemory:
    """Memory that threads read into, cut from pieces that lie on huge pages.

    A read past the page cache goes to the device in as few requests as its memory has pieces: into small pages, large
    reads take many times as many.  So it must not be chance on which pages they lie.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._piece = memoryview(b"")

    def take(self, length: int) -> memoryview:
        """`length` bytes from a page's beginning that nobody else has."""
        size = -(-length // PAGE_BYTES) * PAGE_BYTES
        with self._lock:
            if size > len(self._piece):
                self._piece = huge_pages(size)
            taken, self._piece = self._piece[:length], self._piece[size:]
        return taken


def huge_pages(size_bytes: int) -> memoryview:
    """Anonymous memory of at least this size that begins on a huge page, and lies on them where the system has any."""
    return Buffer(-(-size_bytes // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES).memory


class HostTargets:
    """Memory of one thread, as large as its largest read; a list of one view for each length."""

    def __init__(self, memory: HostMemory) -> None:
        self._shared = memory
        self._memory = memoryview(b"")
        self._views: dict[int, list[memoryview]] = {}

    def __call__(self, length: int) -> list[memoryview]:
        """`length` bytes of it, as preadv takes them."""
        if length > len(self._memory):
            self._memory = self._shared.take(max(length, 2 * len(self._memory)))
            self._views.clear()
        if length not in self._views:
            if len(self._views) > MOST_VIEWS:  # replayed reads come in many lengths
                self._views.clear()
            self._views[length] = [self._memory[:length]]
        return self._views[length]


class FileReads:
    """preadv on the loader's own readers' files: past the page cache, or through it with pages evicted behind."""

    do = staticmethod(os.preadv)

    def __init__(self, reader: BufferedReader | DirectReader, *, evicts: bool = False) -> None:
        self._reader = reader
        self._memory = HostMemory()
        self.after = self._evict if evicts else None

    def handle(self, path: Path) -> tuple[int, object]:
        """The file's descriptor, and the open file that it belongs to."""
        file = self._reader.opened(path)
        return file.fd, file

    def targets(self) -> HostTargets:
        """Host memory."""
        return HostTargets(self._memory)

    def complete(self, path: Path, offset: int, target: list[memoryview], need: int) -> int:
        """Read as the loader does: short reads are gone on with, errors name file and byte."""
        return self._reader.read(path, offset, target[0], need=need)

    def counters(self) -> dict[str, int]:
        """Nothing: the kernel counts."""
        return {}

    def close(self) -> None:
        """Close every file."""
        self._reader.close()

    @staticmethod
    def _evict(fd: int, _target: list[memoryview], offset: int, count: int) -> None:
        evict_range(fd, offset, count)

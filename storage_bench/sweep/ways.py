"""How one read is done: the seam at which the engines of a sweep differ.

handle(path)     what is open, kept while it is used      not timed
targets()        one thread's memory, by length           not timed
do(...)          the read alone                           timed
complete(...)    a read that failed or came up short: the loader's reader does it again, or says what is wrong
after(...)       pages put out again behind a cold read   not timed
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ...loaders.buffers import Buffer
from ...loaders.readers import BufferedReader, DirectReader, evict_range

Targets = Callable[[int], Any]


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


class HostTargets:
    """Page-aligned memory of one thread, as large as its largest read; a list of one view for each length."""

    def __init__(self) -> None:
        self._memory = Buffer(1 << 16).memory
        self._views: dict[int, list[memoryview]] = {}

    def __call__(self, length: int) -> list[memoryview]:
        """`length` bytes of it, as preadv takes them."""
        if length > len(self._memory):
            self._memory = Buffer(length).memory
            self._views.clear()
        if length not in self._views:
            if len(self._views) > 1024:  # replayed reads come in many lengths
                self._views.clear()
            self._views[length] = [self._memory[:length]]
        return self._views[length]


class FileReads:
    """preadv on the loader's own readers' files: past the page cache, or through it with pages evicted behind."""

    do = staticmethod(os.preadv)

    def __init__(self, reader: BufferedReader | DirectReader, *, evicts: bool = False) -> None:
        self._reader = reader
        self.after = self._evict if evicts else None

    def handle(self, path: Path) -> tuple[int, object]:
        """The file's descriptor, and the open file that it belongs to."""
        file = self._reader.opened(path)
        return file.fd, file

    def targets(self) -> HostTargets:
        """Host memory."""
        return HostTargets()

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

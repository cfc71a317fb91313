"""One checkpoint: written by several threads into a file each, made durable, read back and compared.

    write     make file, blocks of content -> digest on the way -> fsync each file, then the folder
    restore   evicted or O_DIRECT reads of the same blocks -> digest -> compare

The content cannot be compressed, and the first word of every 4 KiB page is its own number: no page is like another.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import ClassVar

import numpy as np
import xxhash

from ...loaders.buffers import ALIGNMENT_BYTES, Buffer
from ...loaders.engines.readers import BufferedReader, DirectReader
from ...loaders.page_cache import evict
from ..durable import sync_folder

PAGE_WORDS = ALIGNMENT_BYTES // 8
STAMP_BITS = 40  # pages of one file; what lies above tells files apart


class CheckpointError(OSError):
    """A checkpoint cannot be written, or did not read back as it was written."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class Span:
    """When something began and ended (ns of perf_counter), and how long the longest fsync in it took."""

    begin_ns: int
    end_ns: int
    num_bytes: int
    fsync_s: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first thread's start to the last one's end."""
        return (self.end_ns - self.begin_ns) / 1e9

    @property
    def gbps(self) -> float:
        """Decimal GB/s of all threads together."""
        return self.num_bytes / self.seconds / 1e9


@dataclass(slots=True)
class _Part:
    """One thread's file."""

    path: Path
    num_bytes: int
    number: int
    digest: str = ""
    fsync_s: float = 0.0


class Checkpoint:
    """`size_bytes` (rounded up to whole pages) in `threads` files below `folder`; `serial` makes its bytes its own."""

    def __init__(self, folder: Path, *, size_bytes: int, threads: int, block_bytes: int, serial: int) -> None:
        pages = -(-size_bytes // ALIGNMENT_BYTES)
        bounds = [pages * number // threads for number in range(threads + 1)]
        sizes = [(after - before) * ALIGNMENT_BYTES for before, after in itertools.pairwise(bounds)]
        self._folder = folder
        self._block_bytes = block_bytes
        self._parts = [
            _Part(folder / f"{serial:06d}-{number:03d}", size, serial * threads + number)
            for number, size in enumerate(sizes)
            if size
        ]

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(part.num_bytes for part in self._parts)

    @property
    def paths(self) -> list[Path]:
        """Its files."""
        return [part.path for part in self._parts]

    def write(self, engine: str) -> Span:
        """Write it with `engine` (buffered or direct) and have it on the device; raises CheckpointError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | (os.O_DIRECT if engine == "direct" else 0)
        begin = perf_counter_ns()
        _in_threads(self._parts, lambda part, stop: self._write_part(part, flags, stop))
        before = perf_counter()
        sync_folder(self._folder)
        folder_s = perf_counter() - before
        fsync_s = max(part.fsync_s for part in self._parts) + folder_s
        return Span(begin, perf_counter_ns(), self.num_bytes, fsync_s)

    def restore(self, engine: str) -> Span:
        """Read it back with `engine`, put out of the page cache before, and compare; raises CheckpointError."""
        evict(self.paths)
        reader = DirectReader() if engine == "direct" else BufferedReader(evict_behind=True)
        begin = perf_counter_ns()
        try:
            _in_threads(self._parts, lambda part, stop: self._restore_part(part, reader, stop))
        finally:
            reader.close()
        return Span(begin, perf_counter_ns(), self.num_bytes)

    def remove(self) -> None:
        """Delete its files."""
        for path in self.paths:
            path.unlink(missing_ok=True)

    def _write_part(self, part: _Part, flags: int, stop: list[bool]) -> None:
        memory = Buffer(self._block_bytes).memory
        words = np.frombuffer(memory, dtype=np.uint64)
        words[:] = np.frombuffer(np.random.Generator(np.random.PCG64DXSM(part.number)).bytes(len(memory)), np.uint64)
        digest, offset = xxhash.xxh3_128(), 0
        try:
            fd = os.open(part.path, flags, 0o644)
            try:
                while offset < part.num_bytes and not stop:
                    block = memory[: min(self._block_bytes, part.num_bytes - offset)]
                    _stamp(words[: len(block) // 8], part.number, offset)
                    digest.update(block)
                    offset = _write_fully(fd, block, offset)
                before = perf_counter()
                os.fsync(fd)
                part.fsync_s = perf_counter() - before
            finally:
                os.close(fd)
        except OSError as error:
            text = f"{part.path}: writing failed at byte {offset} of {part.num_bytes} ({error.strerror}); make room, or"
            raise CheckpointError(f"{text} name another folder") from error
        part.digest = digest.hexdigest()

    def _restore_part(self, part: _Part, reader: DirectReader | BufferedReader, stop: list[bool]) -> None:
        memory, digest = Buffer(self._block_bytes).memory, xxhash.xxh3_128()
        for offset in range(0, part.num_bytes, self._block_bytes):
            if stop:
                return
            block = memory[: min(self._block_bytes, part.num_bytes - offset)]
            reader.read(part.path, offset, block)
            digest.update(block)
        if digest.hexdigest() != part.digest:
            raise CheckpointError(
                f"{part.path}: {part.num_bytes} bytes did not read back as they were written; the storage is unsound"
            )


def _stamp(words: np.ndarray[tuple[int], np.dtype[np.uint64]], number: int, offset: int) -> None:
    """Give the first word of each page a number that no other page of any file has."""
    first = (number << STAMP_BITS) + offset // ALIGNMENT_BYTES
    pages = words[::PAGE_WORDS]
    pages[:] = np.arange(first, first + len(pages), dtype=np.uint64)


def _write_fully(fd: int, block: memoryview, offset: int) -> int:
    """Write all of a block; the offset behind it."""
    while block:
        count = os.pwrite(fd, block, offset)
        block, offset = block[count:], offset + count
    return offset


def _in_threads(parts: Sequence[_Part], work: Callable[[_Part, list[bool]], None]) -> None:
    """A thread for each part; the first error stops the others, an interrupt does not wait for them."""
    errors: list[Exception] = []
    stop: list[bool] = []

    def run(part: _Part) -> None:
        try:
            work(part, stop)
        except Exception as error:  # raised again below
            errors.append(error)
            stop.append(True)

    threads = [threading.Thread(target=run, args=(part,), daemon=True) for part in parts]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        stop.append(True)
        raise
    if errors:
        raise errors[0]

"""The bare loop: what preadv alone gives over the same shards, without anything a loader does for its user.

records of a batch -> one read per run of consecutive records -> n threads, a batch each -> a view over the buffer
"""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ..buffers import ALIGNMENT_BYTES, Buffer
from ..plan import Indices, endless_batches
from .road import Images, Records, RoadBatch, RoadOptions, read_fully


class _Read(NamedTuple):
    """One preadv of the bare loop: `length` bytes, of which `need` must come."""

    shard: int
    offset: int
    length: int
    need: int
    target: int


class PreadvRoad:
    """n threads, each fills one batch at a time: `reused` in a ring of buffers, `fresh` in new memory every time.

    A cold road reads with O_DIRECT, in aligned supersets.  Where records have no stride, or a superset would break it,
    a batch is a list of views.
    """

    version = f"Python {platform.python_version()}"

    def __init__(self, records: Records, options: RoadOptions) -> None:
        self._records, self._options = records, options
        self._alignment = ALIGNMENT_BYTES if options.cold else 1
        self._strided = records.stride is not None and records.stride % self._alignment == 0
        self._fresh = options.variant == "fresh"
        self._depth = max(1, options.threads) * options.prefetch_factor
        gap_bytes = max(int(np.diff(records.offsets).max(initial=0)), records.image_bytes)
        self._buffer_bytes = (options.batch_size + 1) * (gap_bytes + 2 * self._alignment)
        flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if options.cold else 0)
        self._files = [os.open(path, flags) for path in records.paths]
        self._threads = ThreadPoolExecutor(max(1, options.threads), "preadv")
        self._ring = deque(Buffer(self._buffer_bytes) for _ in range(0 if self._fresh else self._depth + 1))
        self.engine = f"{options.variant or 'reused'}{' direct' if options.cold else ''}"

    def batches(self) -> Iterator[RoadBatch]:
        """Batches in order; a reused buffer goes back into the ring when the next batch is asked for."""
        window: deque[tuple[Indices, Buffer, Future[Indices]]] = deque()
        for planned in self._plan():
            buffer = Buffer(self._buffer_bytes) if self._fresh else self._ring.popleft()
            window.append((planned, buffer, self._threads.submit(self._fill, buffer, planned)))
            del buffer
            if len(window) < self._depth:
                continue
            numbers, ready, filled = window.popleft()
            yield RoadBatch(self._view(ready, filled.result()), self._records.labels[numbers])
            if not self._fresh:
                self._ring.append(ready)
            del ready

    def close(self) -> None:
        """End the threads, close the files."""
        self._threads.shutdown(cancel_futures=True)
        for file in self._files:
            os.close(file)

    def _plan(self) -> Iterator[Indices]:
        return endless_batches(
            self._records.sizes,
            seed=self._options.seed,
            mode=self._options.shuffle,
            block_records=1,
            rank=0,
            world_size=1,
            batch_size=self._options.batch_size,
        )

    def _place(self, numbers: Indices) -> tuple[list[_Read], Indices]:
        """The reads of one batch in file order, one per run of records, and where each image comes to lie."""
        shards, offsets = self._records.shards[numbers], self._records.offsets[numbers]
        breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(shards) != 0)) + 1
        places = np.empty(len(numbers), np.int64)
        reads, cursor = [], 0
        for slots in np.split(np.arange(len(numbers)), breaks):
            first, last = int(offsets[slots[0]]), int(offsets[slots[-1]]) + self._records.image_bytes
            skew = first % self._alignment
            if self._strided:
                cursor = self._records.head_bytes + int(slots[0]) * (self._records.stride or 0) - skew
            places[slots] = cursor + skew + offsets[slots] - first
            need = skew + last - first
            length = -(-need // self._alignment) * self._alignment
            reads.append(_Read(int(shards[slots[0]]), first - skew, length, need, cursor))
            cursor += length
        return sorted(reads), places

    def _fill(self, buffer: Buffer, numbers: Indices) -> Indices:
        reads, places = self._place(numbers)
        for read in reads:
            target = buffer.memory[read.target : read.target + read.length]
            read_fully(self._files[read.shard], target, read.offset, need=read.need)
        return places

    def _view(self, buffer: Buffer, places: Indices) -> Images:
        records = self._records
        if not self._strided:
            return [np.ndarray(records.shape, np.uint8, buffer.memory, place) for place in places.tolist()]
        _, width, channels = records.shape
        strides = (records.stride or 0, width * channels, channels, 1)
        return np.ndarray((len(places), *records.shape), np.uint8, buffer.memory, int(places[0]), strides)

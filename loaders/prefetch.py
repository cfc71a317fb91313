"""Hand-over: reader threads fill batch buffers ahead of the loop, and batches come out in order.

    next()  top up the window: acquire a buffer, place the batch, queue its reads
            wait for the oldest batch -> fresh view over its buffer -> (images, labels)
    reader_threads.py   a few reads at a time from the queue; the last of a batch makes its moves and opens its gate
    hand_out.py         what a batch is then: views, decoded samples, tensors on a device

A mapped file's batch of one run needs no buffer: threads populate the mapping's pages, and the batch is a view of them.

All bookkeeping is in the caller's thread; reader threads only read.  With no threads the reads happen inside next().
Whatever next() raises, the end included, ends the reader threads: half a window is never used again.  Threads that were
lent by a loader (persistent workers) outlive the end of an epoch, and one that is left early; an error ends them too.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Self

from .buffers import Buffer, BufferPool
from .decode import buffer_bytes, place_batch
from .engines.mapped import MappedReader, Mapping
from .engines.reader_threads import PendingBatch, ReaderThreads, work_off
from .engines.readers import READ_BYTES, read_bytes_of
from .hand_out import HandOut, RawBatch, Source, Tally
from .placement import Placement, Reads
from .plan import Indices, batch_runs

if TYPE_CHECKING:
    from .destinations.freight import Freight
    from .destinations.memory import DeviceBuffer

__all__ = ["DEFAULT_READ_BYTES", "Prefetcher", "RawBatch", "Source", "Tally"]

JOIN_TIMEOUT_S = 2.0
DEFAULT_READ_BYTES = READ_BYTES


class Prefetcher:
    """Iterates over batches of `source`, `depth` of them ahead, with `num_threads` threads or those that it is lent."""

    def __init__(
        self,
        source: Source,
        batches: Iterator[Indices],
        *,
        pool: BufferPool,
        tally: Tally,
        num_threads: int,
        depth: int,
        read_bytes: int | None = None,
        timeout_s: float = 0.0,
        on_thread_start: Callable[[int], None] | None = None,
        threads: ReaderThreads | None = None,
        epoch: int = 0,
        image_pool: BufferPool | None = None,
        freight: Freight | None = None,
    ) -> None:
        self._source = source
        self._image_pool = image_pool or BufferPool(0, num_free_kept=depth + 2)
        self._batches = batches
        self._pool = pool
        self._freight = freight
        self._hand_out = HandOut(
            source, pool=pool, image_pool=self._image_pool, freight=freight, tally=tally, epoch=epoch
        )
        self._read_bytes = read_bytes or read_bytes_of(source.reader.engine)
        self._timeout_s = timeout_s
        self._window: deque[PendingBatch] = deque()
        self._mapped = source.reader if isinstance(source.reader, MappedReader) else None
        if self._mapped is not None:
            self._mapped.check_sizes(source.paths, [stamp.size_bytes for stamp in source.index.stamps])
            if freight is not None and (source.decoding is None or freight.decodes):
                self._mapped = None  # copies to a device go from page-locked memory, which a file's pages are not
        self._left = threading.Event()
        self._home = threading.get_ident()
        self._lent = threads is not None
        if threads is None:
            threads = ReaderThreads(num_threads, source.reader, source.paths, on_start=on_thread_start)
        self._threads = threads
        self._num_threads = len(threads)
        self._depth = max(1, depth) if self._num_threads else 1

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RawBatch:
        """The next batch; raises what a reader raised for it, RuntimeError after `timeout_s`."""
        if self._left.is_set():
            raise StopIteration
        try:
            return self._next()
        except StopIteration:
            self.close()
            raise
        except BaseException:
            self._lent = False  # who knows what state they are in
            self.close()
            raise

    def close(self) -> None:
        """Stop reading and let the threads end, unless they are lent; batches already handed out stay valid."""
        if self._left.is_set():
            return
        self._left.set()
        if not self._lent:
            self._threads.end()
        if threading.get_ident() != self._home:
            return  # the garbage collector's call: from a reader thread it would wait for itself
        deadline = monotonic() + JOIN_TIMEOUT_S
        while self._window:
            batch = self._window.popleft()
            done = not self._threads.alive or batch.gate.acquire(timeout=max(0.0, deadline - monotonic()))
            if done and isinstance(batch.buffer, Buffer):  # a buffer some thread may still write to is left to it
                self._pool.release(batch.buffer)
            if done and batch.landing is not None and self._freight is not None:
                self._freight.destination.give_up(batch.landing)
            if done and batch.images is not None and batch.images.output is not None:
                self._image_pool.release(batch.images.output)
        if not self._lent:
            self._threads.join(deadline)

    def __del__(self) -> None:
        if hasattr(self, "_depth"):
            self.close()

    def _next(self) -> RawBatch:
        if self._num_threads and not self._threads.usable:
            raise RuntimeError(
                "the reader threads of this epoch are gone: a forked process has none of its parent's, and an error in "
                "another epoch of the same loader ends those that persist; begin anew with iter(loader)"
            )
        if not self._window:
            self._top_up()
        if not self._window:
            raise StopIteration
        self._wait(self._window[0])
        batch = self._window.popleft()
        if batch.error is not None:
            raise batch.error
        if self._num_threads:
            self._top_up()  # before handing out, so that reading goes on while the loop computes
        return self._hand_out(batch)

    def _top_up(self) -> None:
        while len(self._window) < self._depth:
            records = next(self._batches, None)
            if records is None:
                return
            self._window.append(self._start(records))

    def _start(self, records: Indices) -> PendingBatch:
        if not len(records):
            raise ValueError("a batch of no records was asked for; the sampler must give at least one")
        index, reader = self._source.index, self._source.reader
        runs = batch_runs(records, index.first_records)
        alignment, scatters = reader.alignment_bytes, reader.scatters
        placement = place_batch(runs, index, alignment=alignment, scatters=scatters, read_bytes=self._read_bytes)
        buffer: Buffer | DeviceBuffer | None = None
        mapping = None
        if self._mapped is not None and len(runs) == 1 and (stride := index.layout.stride_bytes) is not None:
            run = next(iter(runs))
            path = self._source.paths[run.shard]
            mapping = self._mapped.map(path, run.first * stride, run.num_records * stride)
            self._mapped.count(run.num_records * stride)
        elif placement.places is not None:
            buffer, mapping = self._room_for(placement, records)
        else:
            buffer = self._acquire(buffer_bytes(index.layout, batch_size=len(records), alignment=alignment), records)
        tasks = _tasks(placement.reads) if self._num_threads else [placement.reads]
        batch = PendingBatch(records, buffer, mapping, placement, len(tasks), self._left)
        if self._source.decoding is not None:
            batch.images = self._hand_out.images_of(self._source.decoding, batch)
        if self._freight is not None:
            batch.landing = self._freight.expect(batch)
        batch.gate.acquire()
        if self._num_threads:
            self._threads.submit(batch, tasks)
        return batch

    def _acquire(self, size_bytes: int, records: Indices) -> Buffer | DeviceBuffer:
        if self._freight is None:
            return self._pool.acquire(size_bytes)
        return self._freight.acquire(self._pool, size_bytes, len(records))

    def _room_for(self, placement: Placement, records: Indices) -> tuple[Buffer | DeviceBuffer | None, Mapping | None]:
        """Where a batch of samples of unequal size is read to, or seen."""
        if self._mapped is None or not placement.whole:
            return self._acquire(placement.size_bytes, records), None
        first, length = next(iter(placement.reads)), int(placement.reads.needs.sum())
        self._mapped.count(length)
        return None, self._mapped.map(self._source.paths[first.shard], first.file_offset, length)

    def _wait(self, batch: PendingBatch) -> None:
        if not self._num_threads:
            reader, paths = self._source.reader, self._source.paths
            for part in work_off(reader, paths, batch, batch.placement.reads, own_thread=False):
                work_off(reader, paths, batch, part, own_thread=False)
        if not batch.gate.acquire(timeout=self._timeout_s or -1):
            raise RuntimeError(f"no batch within {self._timeout_s} s: the storage hangs or is too slow; raise timeout=")
        batch.gate.release()  # it stays open


def _tasks(reads: Reads) -> list[Reads]:
    """Small reads a few together, about READ_BYTES a task: what a task costs is then shared by several records."""
    if len(reads) == 1:
        return [reads]
    together = max(1, READ_BYTES * len(reads) // int(reads.lengths.sum()))
    return [reads.between(start, start + together) for start in range(0, len(reads), together)]

"""Hand-over: reader threads fill batch buffers ahead of the loop, and batches come out in order.

    next()  top up the window: acquire a buffer, place the batch, queue its reads
            wait for the oldest batch -> fresh view over its buffer -> (images, labels)
    reader threads   take one read at a time from the queue; the last read of a batch makes its moves and opens its gate

All bookkeeping is in the caller's thread; reader threads only read.  With no threads the reads happen inside next().
Whatever next() raises, the end included, ends the reader threads: half a window is never used again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from .buffers import Buffer, BufferPool
from .decode import Placement, ReadOp, buffer_bytes, place, view_geometry
from .index import ShardIndex
from .plan import Indices, batch_runs
from .readers import Reader

JOIN_TIMEOUT_S = 2.0
DEFAULT_READ_BYTES = 4 << 20


@dataclass(slots=True)
class Tally:
    """What a loader has read so far."""

    num_batches: int = 0
    num_records: int = 0
    num_reads: int = 0
    delivered_bytes: int = 0
    payload_bytes: int = 0
    copied_bytes: int = 0


class Source(Protocol):
    """What a prefetcher needs of a shard set."""

    @property
    def index(self) -> ShardIndex:
        """Where every record lies."""

    @property
    def paths(self) -> Sequence[Path]:
        """The shard files."""

    @property
    def reader(self) -> Reader:
        """What reads them."""


@dataclass(slots=True)
class _Batch:
    """A batch on its way: `gate` is held until the last read is done."""

    records: Indices
    buffer: Buffer
    placement: Placement
    remaining: int
    gate: threading.Lock = field(default_factory=threading.Lock)
    lock: threading.Lock = field(default_factory=threading.Lock)
    delivered: int = 0
    error: BaseException | None = None

    def finish(self, delivered: int, error: BaseException | None) -> None:
        """Count one read as done; the last one moves what could not be read in place, and opens the gate."""
        with self.lock:
            self.delivered += delivered
            self.error = self.error or error
            self.remaining -= 1
            last = self.remaining == 0
        if last:
            try:
                if self.error is None:
                    _move(self.buffer, self.placement)
            except BaseException as failure:  # raised again in the caller's next()
                self.error = failure
            finally:
                self.gate.release()


@dataclass(frozen=True, slots=True)
class RawBatch:
    """A finished batch: images (B, H, W, C) over pool memory, and the record numbers."""

    images: npt.NDArray[Any]
    records: Indices


class Prefetcher:
    """Iterates over batches of `source`, reading `depth` of them ahead with `num_threads` threads."""

    def __init__(
        self,
        source: Source,
        batches: Iterator[Indices],
        *,
        pool: BufferPool,
        tally: Tally,
        num_threads: int,
        depth: int,
        read_bytes: int = DEFAULT_READ_BYTES,
        timeout_s: float = 0.0,
        on_thread_start: Callable[[int], None] | None = None,
    ) -> None:
        self._source = source
        self._batches = batches
        self._pool = pool
        self._tally = tally
        self._depth = max(1, depth) if num_threads else 1
        self._read_bytes = read_bytes
        self._timeout_s = timeout_s
        self._window: deque[_Batch] = deque()
        self._queue: SimpleQueue[tuple[_Batch, ReadOp] | None] = SimpleQueue()
        self._stop = threading.Event()
        self._home = threading.get_ident()
        self._threads: list[threading.Thread] = []
        arguments = (self._queue, self._stop, source.reader, source.paths, on_thread_start)
        for number in range(num_threads):
            thread = threading.Thread(
                target=_serve, args=(number, *arguments), name=f"iobench-reader-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RawBatch:
        """The next batch; raises what a reader raised for it, RuntimeError after `timeout_s`."""
        if self._stop.is_set():
            raise StopIteration
        try:
            return self._next()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop reading and let the threads end; batches already handed out stay valid."""
        if self._stop.is_set():
            return
        self._stop.set()
        for _ in self._threads:
            self._queue.put(None)
        if threading.get_ident() != self._home:
            return  # the garbage collector's call: from a reader thread it would wait for itself
        deadline = monotonic() + JOIN_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            while self._window:  # a buffer some thread may still write to is left to it
                self._pool.release(self._window.popleft().buffer)

    def __del__(self) -> None:
        if hasattr(self, "_threads"):
            self.close()

    def _next(self) -> RawBatch:
        if not self._window:
            self._top_up()
        if not self._window:
            raise StopIteration
        self._wait(self._window[0])
        batch = self._window.popleft()
        if batch.error is not None:
            raise batch.error
        if self._threads:
            self._top_up()  # before handing out, so that reading goes on while the loop computes
        return self._hand_out(batch)

    def _top_up(self) -> None:
        while len(self._window) < self._depth:
            records = next(self._batches, None)
            if records is None:
                return
            self._window.append(self._start(records))

    def _start(self, records: Indices) -> _Batch:
        if not len(records):
            raise ValueError("a batch of no records was asked for; the sampler must give at least one")
        index, reader = self._source.index, self._source.reader
        runs = batch_runs(records, index.first_records)
        placement = place(runs, index.layout, alignment=reader.alignment_bytes, read_bytes=self._read_bytes)
        needed = buffer_bytes(index.layout, batch_size=len(records), alignment=reader.alignment_bytes)
        batch = _Batch(records, self._pool.acquire(needed), placement, len(placement.reads))
        batch.gate.acquire()
        if self._threads:
            for op in placement.reads:
                self._queue.put((batch, op))
        return batch

    def _wait(self, batch: _Batch) -> None:
        if not self._threads:
            for op in batch.placement.reads:
                batch.finish(_read(self._source.reader, self._source.paths, batch, op), None)
        if not batch.gate.acquire(timeout=self._timeout_s or -1):
            raise RuntimeError(f"no batch within {self._timeout_s} s: the storage hangs or is too slow; raise timeout=")

    def _hand_out(self, batch: _Batch) -> RawBatch:
        index, placement, tally = self._source.index, batch.placement, self._tally
        shape, strides, offset = view_geometry(index.layout, len(batch.records), placement.first_record)
        images = self._pool.hand_out(
            batch.buffer, shape=shape, dtype=index.layout.dtype, strides=strides, offset=offset
        )
        tally.num_batches += 1
        tally.num_records += len(batch.records)
        tally.num_reads += len(placement.reads)
        tally.delivered_bytes += batch.delivered
        tally.payload_bytes += placement.payload_bytes
        tally.copied_bytes += sum(move.length for move in placement.moves)
        return RawBatch(images, batch.records)


def _serve(
    number: int,
    queue: SimpleQueue[tuple[_Batch, ReadOp] | None],
    stop: threading.Event,
    reader: Reader,
    paths: Sequence[Path],
    on_start: Callable[[int], None] | None,
) -> None:
    """A reader thread: one read at a time until told to stop.  It keeps no reference to the prefetcher."""
    start_error: BaseException | None = None
    try:
        if on_start is not None:
            on_start(number)
    except BaseException as error:  # raised again in the caller's next(), as are all below
        start_error = error
    while (task := queue.get()) is not None and not stop.is_set():
        batch, op = task
        try:
            if start_error is not None:
                raise start_error
            delivered = _read(reader, paths, batch, op)
        except BaseException as error:
            batch.finish(0, error)
        else:
            batch.finish(delivered, None)
        del task, batch


def _read(reader: Reader, paths: Sequence[Path], batch: _Batch, op: ReadOp) -> int:
    target = batch.buffer.memory[op.buffer_offset : op.buffer_offset + op.length]
    return reader.read(paths[op.shard], op.file_offset, target, need=op.need)


def _move(buffer: Buffer, placement: Placement) -> None:
    if placement.moves:
        whole = np.frombuffer(buffer.memory, dtype=np.uint8)
        for move in placement.moves:
            whole[move.target : move.target + move.length] = whole[move.source : move.source + move.length]

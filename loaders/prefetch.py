"""Hand-over: reader threads fill batch buffers ahead of the loop, and batches come out in order.

    next()  top up the window: acquire a buffer, place the batch, queue its reads
            wait for the oldest batch -> fresh view over its buffer -> (images, labels)
    reader_threads.py   a few reads at a time from the queue; the last of a batch makes its moves and opens its gate

A mapped file's batch of one run needs no buffer: threads populate the mapping's pages, and the batch is a view of them.

All bookkeeping is in the caller's thread; reader threads only read.  With no threads the reads happen inside next().
Whatever next() raises, the end included, ends the reader threads: half a window is never used again.  Threads that were
lent by a loader (persistent workers) outlive the end of an epoch, and one that is left early; an error ends them too.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from .augment import uniforms
from .buffers import Buffer, BufferPool
from .decode import buffer_bytes, place_batch, view_geometry
from .decoding import Decoding, ImageBatch, ImageError, SkippedImage
from .destinations.destination import room_bytes
from .index import ShardIndex
from .mapped import MappedReader, Mapping
from .placement import Placement, Reads
from .plan import Indices, batch_runs
from .ragged import Arrays, sample_views
from .reader_threads import PendingBatch, ReaderThreads, work_off
from .readers import READ_BYTES, Reader, read_bytes_of
from .remote import ShardPath

if TYPE_CHECKING:
    import torch

    from .destinations.freight import Freight
    from .destinations.memory import DeviceBuffer

JOIN_TIMEOUT_S = 2.0
MAX_NAMED = 1000  # of images that were left out
DEFAULT_READ_BYTES = READ_BYTES


@dataclass(slots=True)
class Tally:
    """What a loader has read so far.

    `read_s`, `decode_s` and `augment_s` are seconds that threads spent there, added up over threads; what lies in hops
    that a set does not have is 0.  `read_queue_s`, `decode_queue_s` and `ready_s` are how long batches waited to be
    read, to be decoded, and to be asked for, added up over batches: divided by the seconds that went by, how many lay
    there on the average.  An image is augmented by the thread that has just decoded it, and waits for nothing.
    `skipped` names the first MAX_NAMED images of those that were left out.
    """

    num_batches: int = 0
    num_records: int = 0
    num_reads: int = 0
    delivered_bytes: int = 0
    payload_bytes: int = 0
    copied_bytes: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    augment_s: float = 0.0
    read_queue_s: float = 0.0
    decode_queue_s: float = 0.0
    ready_s: float = 0.0
    num_skipped: int = 0
    skipped: list[SkippedImage] = field(default_factory=list)

    def hop_seconds(self) -> dict[str, float]:
        """What threads spent in each hop, and batches waiting before it."""
        hops = {"read": self.read_s, "decode": self.decode_s, "augment": self.augment_s}
        return hops | {"read_queue": self.read_queue_s, "decode_queue": self.decode_queue_s, "ready": self.ready_s}


class Source(Protocol):
    """What a prefetcher needs of a shard set."""

    @property
    def index(self) -> ShardIndex:
        """Where every record lies."""

    @property
    def paths(self) -> Sequence[ShardPath]:
        """The shard files."""

    @property
    def reader(self) -> Reader:
        """What reads them."""

    @property
    def decoding(self) -> Decoding | None:
        """How encoded images become samples; None where batches are what was read."""

    @property
    def seed(self) -> int:
        """What the order, and every sample's own numbers, are drawn from."""


@dataclass(frozen=True, slots=True)
class RawBatch:
    """A finished batch: images (B, H, W, C) over pool memory, or B samples of unequal size; and the record numbers.

    `ready_ns` is when its last read was done, by perf_counter_ns: how long it lay waiting for the loop.  On a device
    the images are tensors, and `labels` (B) are there too.
    """

    images: npt.NDArray[Any] | Arrays | Any
    records: Indices
    ready_ns: int
    labels: torch.Tensor | None = None


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
        self._epoch = epoch
        self._image_pool = image_pool or BufferPool(0, num_free_kept=depth + 2)
        self._batches = batches
        self._pool = pool
        self._freight = freight
        self._tally = tally
        self._read_bytes = read_bytes or read_bytes_of(source.reader.engine)
        self._timeout_s = timeout_s
        self._window: deque[PendingBatch] = deque()
        self._mapped = source.reader if isinstance(source.reader, MappedReader) else None
        if self._mapped is not None:
            self._mapped.check_sizes(source.paths, [stamp.size_bytes for stamp in source.index.stamps])
            if freight is not None and source.decoding is None:
                self._mapped = None  # copies to a device go from page-locked memory, which a file's pages are not
        self._left = threading.Event()
        self._home = threading.get_ident()
        self._lent = threads is not None
        if threads is None:
            threads = ReaderThreads(num_threads, source.reader, source.paths, on_start=on_thread_start)
        self._threads = threads
        self._depth = max(1, depth) if len(self._threads) else 1

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
        if not self._window:
            self._top_up()
        if not self._window:
            raise StopIteration
        self._wait(self._window[0])
        batch = self._window.popleft()
        if batch.error is not None:
            raise batch.error
        if len(self._threads):
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
        tasks = _tasks(placement.reads) if len(self._threads) else [placement.reads]
        batch = PendingBatch(records, buffer, mapping, placement, len(tasks), self._left)
        if self._source.decoding is not None:
            batch.images = self._images(self._source.decoding, batch)
        if self._freight is not None:
            batch.landing = self._freight.expect(batch)
        batch.gate.acquire()
        if len(self._threads):
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
        if not len(self._threads):
            reader, paths = self._source.reader, self._source.paths
            for part in work_off(reader, paths, batch, batch.placement.reads, own_thread=False):
                work_off(reader, paths, batch, part, own_thread=False)
        if not batch.gate.acquire(timeout=self._timeout_s or -1):
            raise RuntimeError(f"no batch within {self._timeout_s} s: the storage hangs or is too slow; raise timeout=")
        batch.gate.release()  # it stays open

    def _hand_out(self, batch: PendingBatch) -> RawBatch:
        index, placement, tally = self._source.index, batch.placement, self._tally
        tally.num_batches += 1
        tally.num_records += len(batch.records)
        tally.num_reads += len(placement.reads)
        tally.delivered_bytes += batch.delivered
        tally.payload_bytes += placement.payload_bytes
        tally.copied_bytes += sum(move.length for move in placement.moves)
        tally.read_s += batch.read_ns / 1e9
        tally.read_queue_s += batch.read_waited_ns / batch.num_reads / 1e9
        tally.ready_s += (perf_counter_ns() - batch.ready_ns) / 1e9
        if batch.landing is not None and batch.images is None:
            return self._receive(batch, batch.records)
        if batch.images is not None:
            return self._hand_out_images(batch, batch.images)
        if placement.places is not None:
            return self._hand_out_views(batch)
        shape, strides, offset = view_geometry(index.layout, len(batch.records), placement.first_record)
        dtype = index.layout.dtype
        images: npt.NDArray[Any]
        if isinstance(batch.buffer, Buffer):
            images = self._pool.hand_out(batch.buffer, shape=shape, dtype=dtype, strides=strides, offset=offset)
        else:
            assert batch.mapping is not None  # a batch has the one or the other
            images = np.ndarray(shape, dtype, buffer=batch.mapping.memory, offset=offset, strides=strides)
        return RawBatch(images, batch.records, batch.ready_ns)

    def _receive(self, batch: PendingBatch, records: Indices) -> RawBatch:
        """The batch on its device; host buffers are free for the next one once the copy from them is done."""
        assert self._freight is not None  # who has given the landing
        images, labels = self._freight.receive(batch)
        if isinstance(batch.buffer, Buffer):
            self._pool.release(batch.buffer)
        return RawBatch(images, records, batch.ready_ns, labels)

    def _hand_out_views(self, batch: PendingBatch) -> RawBatch:
        memory = None
        if isinstance(batch.buffer, Buffer):
            size = batch.placement.size_bytes
            memory = self._pool.hand_out(batch.buffer, shape=(size,), dtype=np.uint8, strides=(1,), offset=0)
        return RawBatch(self._views(batch, memory), batch.records, batch.ready_ns)

    def _views(self, batch: PendingBatch, memory: npt.NDArray[np.uint8] | None) -> Arrays:
        """The samples of a batch in `memory`, or in the mapping that they are seen in."""
        extents, places = self._source.index.extents, batch.placement.places
        assert extents is not None  # the index has these where a placement has places
        assert places is not None
        if memory is None:
            assert batch.mapping is not None  # a batch has the one or the other
            memory = np.frombuffer(batch.mapping.memory, np.uint8)
        return sample_views(memory, batch.records, places, extents)

    def _images(self, decoding: Decoding, batch: PendingBatch) -> ImageBatch:
        """What reader threads make of a batch once it is read, and where to."""
        records, transform = batch.records, decoding.transform
        samples, place = self._samples(batch), partial(_place_of, self._source)  # self would be a cycle
        if transform is None:
            return ImageBatch(decoding, records, samples, (), None, place)
        numbers = uniforms(self._source.seed, self._epoch, records, transform.num_numbers).tolist()
        room = 0 if self._freight is None else room_bytes(len(records))
        output = self._image_pool.acquire(decoding.output_bytes(len(records)) + room)
        return ImageBatch(decoding, records, samples, numbers, output, place)

    def _samples(self, batch: PendingBatch) -> Arrays:
        """The samples of a batch, where they will lie once they are read."""
        memory = np.frombuffer(batch.buffer.memory, np.uint8) if isinstance(batch.buffer, Buffer) else None
        if batch.placement.places is not None:
            return self._views(batch, memory)
        if memory is None:
            assert batch.mapping is not None  # a batch has the one or the other
            memory = np.frombuffer(batch.mapping.memory, np.uint8)
        layout = self._source.index.layout
        shape, strides, offset = view_geometry(layout, len(batch.records), batch.placement.first_record)
        return list(np.ndarray(shape, layout.dtype, buffer=memory, offset=offset, strides=strides))

    def _hand_out_images(self, batch: PendingBatch, images: ImageBatch) -> RawBatch:
        tally = self._tally
        tally.decode_s += images.decode_ns / 1e9
        tally.augment_s += images.augment_ns / 1e9
        tally.decode_queue_s += images.waited_ns / 1e9
        kept, records = images.kept, batch.records
        if images.broken:
            tally.num_skipped += len(images.broken)
            named = (SkippedImage(int(records[slot]), images.broken[slot]) for slot in sorted(images.broken))
            tally.skipped += list(named)[: MAX_NAMED - len(tally.skipped)]
            records = records[kept]
            if not len(records):
                raise ImageError(f"{tally.skipped[-1].reason}; nor can any other of its batch, so none is left of it")
        if batch.landing is not None and images.output is not None:
            self._image_pool.release(images.output)
            return self._receive(batch, records)
        if isinstance(batch.buffer, Buffer):
            self._pool.release(batch.buffer)
        transform = images.decoding.transform
        if transform is None or images.output is None:
            return RawBatch([images.images[slot] for slot in kept.tolist()], records, batch.ready_ns)
        if images.broken:
            images.close_gaps(kept)
        (height, width, channels), item = transform.shape, transform.dtype.itemsize
        shape = (len(records), height, width, channels)
        strides = (height * width * channels * item, width * channels * item, channels * item, item)
        # numpy has no bfloat16: elements go out as whole numbers of their size, which the tensor sees as what they are
        pixels = self._image_pool.hand_out(images.output, shape=shape, dtype=f"u{item}", strides=strides, offset=0)
        return RawBatch(pixels, records, batch.ready_ns)


def _place_of(source: Source, record: int) -> str:
    """Where a sample lies, as errors say it."""
    index = source.index
    if index.extents is not None and index.extents.files:
        return f"{source.paths[record]}: record {record}, a file of its own (byte 0)"
    shard = int(np.searchsorted(index.first_records, record, side="right")) - 1
    number = record - int(index.first_records[shard])
    offsets = index.payload_offsets if index.extents is None else index.extents.offsets
    layout = index.layout
    offset = number * layout.slot_bytes + layout.payload_offset if offsets is None else int(offsets[record])
    return f"{source.paths[shard]}: record {number} (byte {offset})"


def _tasks(reads: Reads) -> list[Reads]:
    """Small reads a few together, about READ_BYTES a task: what a task costs is then shared by several records."""
    if len(reads) == 1:
        return [reads]
    together = max(1, READ_BYTES * len(reads) // int(reads.lengths.sum()))
    return [reads.between(start, start + together) for start in range(0, len(reads), together)]

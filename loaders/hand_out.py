"""What a batch is once its reads are done: views of its buffer, samples that were decoded, or tensors on a device.

PendingBatch, its gate open -> counted in the Tally -> RawBatch, whose buffer comes back when nobody looks at it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from .buffers import Buffer, BufferPool
from .decode import view_geometry
from .destinations.destination import room_bytes
from .engines.reader_threads import PendingBatch
from .engines.readers import Reader
from .formats.ragged import Arrays, sample_views
from .formats.records import ShardIndex
from .images.augment import uniforms
from .images.decoding import Decoding, ImageBatch, ImageError, SkippedImage
from .images.library_batch import LibraryBatch
from .plan import Indices
from .remote import ShardPath

if TYPE_CHECKING:
    import torch

    from .destinations.freight import Freight

MAX_NAMED = 1000  # of images that were left out


@dataclass(slots=True)
class Tally:
    """What a loader has read so far.

    `read_s`, `decode_s` and `augment_s` are seconds that threads spent there, added up over threads; what lies in hops
    that a set does not have is 0.  `read_queue_s`, `decode_queue_s` and `ready_s` are how long batches waited to be
    read, to be decoded, and to be asked for, added up over batches: divided by the seconds that went by, how many lay
    there on the average.  An image is augmented by the thread that has just decoded it, and waits for nothing.
    `num_records` were read; of them `num_skipped` images were left out, in each epoch anew, and `skipped` names each
    once, the first MAX_NAMED.  `num_by_host` counts images for a device's decoder that the CPU's had to do.
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
    num_by_host: int = 0

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


class HandOut:
    """Shows the batches of one epoch; called from the loop's thread."""

    def __init__(
        self,
        source: Source,
        *,
        pool: BufferPool,
        image_pool: BufferPool,
        freight: Freight | None,
        tally: Tally,
        epoch: int,
    ) -> None:
        self._source = source
        self._pool = pool
        self._image_pool = image_pool
        self._freight = freight
        self._tally = tally
        self._epoch = epoch

    def images_of(self, decoding: Decoding, batch: PendingBatch) -> ImageBatch:
        """What reader threads make of a batch once it is read, and where to."""
        records, transform = batch.records, decoding.transform
        samples, place = self._samples(batch), partial(_place_of, self._source)  # self would be a cycle
        kind = ImageBatch if decoding.here is None else LibraryBatch
        if transform is None:
            return kind(decoding, records, samples, (), None, place)
        numbers = uniforms(self._source.seed, self._epoch, records, transform.num_numbers).tolist()
        if self._freight is not None and self._freight.decodes:
            return self._freight.images(decoding, batch, samples, numbers, place)
        room = 0 if self._freight is None else room_bytes(len(records))
        output = self._image_pool.acquire(decoding.output_bytes(len(records)) + room)
        return kind(decoding, records, samples, numbers, output, place)

    def __call__(self, batch: PendingBatch) -> RawBatch:
        """Count a batch that is ready, and show it; ImageError where none of its images can be decoded."""
        placement, tally = batch.placement, self._tally
        tally.num_batches += 1
        tally.num_records += len(batch.records)
        tally.num_reads += len(placement.reads)
        tally.delivered_bytes += batch.delivered
        tally.payload_bytes += placement.payload_bytes
        if placement.moves:
            tally.copied_bytes += sum(move.length for move in placement.moves)
        tally.read_s += batch.read_ns / 1e9
        tally.read_queue_s += batch.read_waited_ns / batch.num_reads / 1e9
        tally.ready_s += (perf_counter_ns() - batch.ready_ns) / 1e9
        if batch.landing is not None and batch.images is None:
            return self._receive(batch, batch.records)
        if batch.images is not None:
            return self._decoded(batch, batch.images)
        if placement.places is not None:
            return self._ragged(batch)
        return self._strided(batch)

    def _strided(self, batch: PendingBatch) -> RawBatch:
        """Records at one stride, or each in a slot."""
        layout = self._source.index.layout
        shape, strides, offset = view_geometry(layout, len(batch.records), batch.placement.first_record)
        dtype = layout.dtype
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

    def _ragged(self, batch: PendingBatch) -> RawBatch:
        """Samples of unequal size."""
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

    def _decoded(self, batch: PendingBatch, images: ImageBatch) -> RawBatch:
        tally = self._tally
        tally.decode_s += images.decode_ns / 1e9
        tally.augment_s += images.augment_ns / 1e9
        tally.decode_queue_s += images.waited_ns / 1e9
        tally.num_by_host += images.num_by_host
        kept, records = images.kept, batch.records
        if images.broken:
            tally.num_skipped += len(images.broken)
            found = {int(records[slot]): images.broken[slot] for slot in sorted(images.broken)}
            for known in tally.skipped:  # of an earlier epoch
                found.pop(known.record, None)
            tally.skipped += list(starmap(SkippedImage, found.items()))[: MAX_NAMED - len(tally.skipped)]
            records = records[kept]
            if not len(records):
                first = images.broken[min(images.broken)]
                raise ImageError(
                    f"{first}; nor can any other of its batch, so none is left of it: take larger batches, or write "
                    f"these records again"
                )
        if batch.landing is not None:
            if images.output is not None:
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

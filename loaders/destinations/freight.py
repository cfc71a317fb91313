"""What one set's batches are to a destination: which bytes travel, and the tensors that they are seen as there.

records of one size      the span of all slots, framing and all        (B, H, W, C), strided as on the host
samples of unequal size  the whole buffer                              a list of tensors
images, transformed      the output of the reader threads              (B, H, W, C), those that came out whole
                         nothing, where the device decodes             the same, made there
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..buffers import Buffer, BufferPool
from ..decode import view_geometry
from ..engines.readers import Reader
from ..formats.ragged import Arrays
from ..formats.records import ShardIndex
from ..images.decoding import Decoding, ImageBatch
from ..images.device_batch import DeviceImageBatch
from ..plan import Indices
from .destination import Cargo, Destination, Landing, room_bytes
from .device import DestinationUsageError
from .memory import DeviceBuffer
from .views import samples, strided

if TYPE_CHECKING:
    import torch

    from ..engines.reader_threads import PendingBatch


class Freight:
    """The batches of a set on their way to `destination`.

    `in_place` where the reader fills device memory itself, `decodes` where the device decodes what was read.
    """

    def __init__(self, destination: Destination, index: ShardIndex, decoding: Decoding | None, reader: Reader) -> None:
        if decoding is not None and decoding.transform is None:
            raise DestinationUsageError(
                f"{index.stamps[0].name}: decoded images have sizes of their own and stay in host memory; give a "
                f"transform of iobench.loaders.transforms, or device='cpu'"
            )
        self.destination = destination
        self.decodes = decoding is not None and decoding.there is not None
        self.in_place = decoding is None and bool(getattr(reader, "into_device", False))
        self._index = index
        self._decoding = decoding
        if self.in_place and (register := getattr(reader, "register", None)) is not None:
            destination.pool.register_with(register)

    def pool(self, size_bytes: int, *, num_records: int, num_free_kept: int) -> BufferPool:
        """Host buffers for what is read: page-locked where copies go from there."""
        if self._decoding is None or self.decodes:
            return self.destination.pinned_pool(size_bytes + room_bytes(num_records))
        return BufferPool(size_bytes, num_free_kept=num_free_kept)

    def acquire(self, pool: BufferPool, size_bytes: int, num_records: int) -> Buffer | DeviceBuffer:
        """Where a batch is read to."""
        if self.in_place:
            return self.destination.pool.acquire(size_bytes + room_bytes(num_records))
        return pool.acquire(size_bytes if self._decoding is not None else size_bytes + room_bytes(num_records))

    def images(
        self,
        decoding: Decoding,
        batch: PendingBatch,
        samples: Arrays,
        numbers: Sequence[Sequence[float]],
        place: Callable[[int], str],
    ) -> DeviceImageBatch:
        """What a reader thread and the device make of a batch once it is read."""
        to = self.destination
        name = to.device.name if to.device.name.startswith("cuda") else "cpu"  # a played device has the host's memory
        assert isinstance(batch.buffer, Buffer)  # nothing is mapped, or read in place, that a device decodes
        return DeviceImageBatch(
            decoding,
            batch.records,
            samples,
            numbers,
            None,
            place,
            there=decoding.there,
            device=name,
            working=partial(to.working, batch.buffer.use),
        )

    def expect(self, batch: PendingBatch) -> Landing:
        """A landing for a batch whose reads are about to begin."""
        num_records, placement, buffer = len(batch.records), batch.placement, batch.buffer
        if isinstance(batch.images, DeviceImageBatch):
            made = partial(_made, batch.images, self._index.labels[batch.records])
            length = batch.images.decoding.output_bytes(num_records)
            return self.destination.expect_made(made, length=length, num_records=num_records)
        if batch.images is not None and batch.images.output is not None:
            settle: Callable[[], Cargo] = partial(_settled, batch.images, self._index.labels[batch.records])
            length = batch.images.decoding.output_bytes(num_records)
            return self.destination.expect(batch.images.output, settle, length=length, num_records=num_records)
        start, length, first_element = 0, placement.size_bytes, 0
        if placement.places is None:
            layout = self._index.layout
            start, length = placement.first_record, num_records * layout.slot_bytes
            first_element = layout.payload_offset
        cargo = Cargo(start, length, self._index.labels[batch.records], placement.moves if self.in_place else ())
        if isinstance(buffer, DeviceBuffer):
            return self.destination.expect_in_place(buffer, lambda: cargo, start=start, num_records=num_records)
        assert buffer is not None  # nothing is mapped that goes to a device
        return self.destination.expect(
            buffer, lambda: cargo, length=length, num_records=num_records, first_element=first_element
        )

    def receive(self, batch: PendingBatch) -> tuple[Any, torch.Tensor]:
        """Images (B, H, W, C), or a list of samples, and labels (B), for the stream that is current here."""
        landing = batch.landing
        assert landing is not None  # who expects a batch receives it
        memory, labels = self.destination.receive(landing)
        if batch.placement.places is not None and batch.images is None:
            assert self._index.extents is not None  # the index has these where a placement has places
            return samples(memory, batch.records, batch.placement.places, self._index.extents), labels
        return self._strided(memory, len(labels), landing.at), labels

    def _strided(self, memory: torch.Tensor, num_images: int, at: int) -> torch.Tensor:
        transform = None if self._decoding is None else self._decoding.transform
        if transform is None:
            import torch

            shape, strides, offset = view_geometry(self._index.layout, num_images, at)
            dtype = torch.from_numpy(np.empty(0, self._index.layout.dtype)).dtype
            return strided(memory, shape=shape, strides=strides, offset=offset, dtype=dtype)
        height, width, channels = transform.shape
        item = transform.dtype.itemsize
        steps = (height * width * channels * item, width * channels * item, channels * item, item)
        shape = (num_images, height, width, channels)
        return strided(memory, shape=shape, strides=steps, offset=at, dtype=transform.dtype)


def _made(images: DeviceImageBatch, labels: Indices) -> Cargo:
    """The same of images that the device has decoded, and makes samples of."""
    kept = images.kept
    made = images.write(kept.tolist()) if len(kept) else None
    return Cargo(0, images.decoding.output_bytes(len(kept)), labels[kept], made=made)


def _settled(images: ImageBatch, labels: Indices) -> Cargo:
    """What is left of a batch of images once all are decoded: those that are whole, without gaps."""
    kept = images.kept
    if images.broken:
        images.close_gaps(kept)
    return Cargo(0, images.decoding.output_bytes(len(kept)), labels[kept])

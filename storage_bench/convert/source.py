"""What is converted: a set as it is opened for reading, but that encoded images come as the bytes they are.

ShardSet -> batches of record numbers -> [(record, what was read of it, its label)] in that order
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import xxhash

from ...loaders import ShardSet
from ...loaders.buffers import BufferPool
from ...loaders.discovery import ShardSource
from ...loaders.formats.records import ShardIndex
from ...loaders.opening import open_index
from ...loaders.plan import Indices
from ..sample_format import SampleOptions
from .samples import Array
from .settings import ConvertError, ConvertUsageError

BATCH_BYTES = 4 << 20
READ_THREADS, DEPTH = 4, 4  # of each part: images in files of their own, and objects, are waited for one by one
_NOTHING_SAID = SampleOptions(fields=None, shape=None, dtype=None)


class Read(NamedTuple):
    """One record as it was read; `data` is pixels (H, W, C), or the bytes of an encoded image."""

    record: int
    data: Array
    label: int


class Source:
    """A set that is read in any order, from many threads at once."""

    def __init__(self, source: ShardSource, options: SampleOptions | None = None) -> None:
        self._source, self._options = source, options or _NOTHING_SAID
        self._shards = ShardSet.open(source, **self._options)
        self._shards.decoding = None  # bytes as they are
        index = self._shards.index
        self.codec = index.layout.codec
        self.dtype = index.layout.dtype
        self.labels = index.labels
        self.index = index
        self.paths = self._shards.paths
        self.classes = index.classes
        self.digest = digest_of(index)  # tells this version of the set from any other
        if index.layout.ragged and self.codec is None:
            self._require_images(index)

    @property
    def encoded(self) -> bool:
        """Whether records are encoded images."""
        return self.codec is not None

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels of all images; None where they are encoded, or not of one size."""
        layout, extents = self.index.layout, self.index.extents
        if extents is not None:
            if extents.shapes is None or (extents.shapes != extents.shapes[0]).any():
                return None
            height, width, channels = extents.shapes[0].tolist()
            return height, width, channels
        height, width, channels = layout.shape
        return height, width, channels

    def read(self, records: Indices) -> Iterator[Read]:
        """Records in this order, as views that hold until they are let go."""
        pool = BufferPool(0, num_free_kept=DEPTH + 2)
        ahead = self._shards.prefetch(
            self._batches(records), batch_size=1, num_threads=READ_THREADS, depth=DEPTH, pool=pool
        )
        with closing(ahead):
            for batch in ahead:
                yield from map(Read, batch.records.tolist(), batch.images, self.labels[batch.records].tolist())

    def _batches(self, records: Indices) -> Iterator[Indices]:
        """Parts of about BATCH_BYTES."""
        extents = self.index.extents
        sizes = (
            np.full(len(records), self.index.layout.slot_bytes)
            if extents is None
            else np.asarray(extents.lengths[records])
        )
        cuts = np.flatnonzero(np.diff(np.cumsum(sizes) // BATCH_BYTES)) + 1
        return iter(np.split(records, cuts)) if len(records) else iter(())

    def require_unchanged(self) -> None:
        """Raise ConvertError where the files are other ones than when the set was opened."""
        if digest_of(open_index(self._source, **self._options)[1]) != self.digest:
            raise ConvertError(
                f"{self.paths[0]}: this set was changed while it was converted; convert it again into an empty folder"
            )

    def place(self, record: int) -> str:
        """File, record and byte of a record, as errors say it."""
        index = self.index
        if index.extents is not None and index.extents.files:
            return f"{self.paths[record]}: record {record}, a file of its own"
        shard = int(np.searchsorted(index.first_records, record, side="right")) - 1
        number = record - int(index.first_records[shard])
        return f"{self.paths[shard]}: record {number} (byte {offset_of(index, record, number)})"

    def close(self) -> None:
        """Close the files."""
        self._shards.close()

    def _require_images(self, index: ShardIndex) -> None:
        name = self.paths[0]
        if index.extents is None or index.extents.shapes is None:
            raise ConvertUsageError(
                f"{name}: holds samples that are no images ({index.layout_reason}); only images are converted"
            )
        if index.extents.shapes.shape[1] != 3 or index.extents.fortran is not None:
            raise ConvertUsageError(
                f"{name}: its arrays are no images (height, width, channels) in C order; only images are converted"
            )


def offset_of(index: ShardIndex, record: int, number: int) -> int:
    """Where in its file the image of `record`, the file's record `number`, begins."""
    if index.extents is not None:
        return int(index.extents.offsets[record])
    if index.payload_offsets is not None:
        return int(index.payload_offsets[record])
    assert index.layout.stride_bytes is not None
    return number * index.layout.stride_bytes + index.layout.payload_offset


def digest_of(index: ShardIndex) -> str:
    """xxh3_128 of what an index knows of its shards."""
    found = xxhash.xxh3_128(repr((index.layout, index.shard_sizes)).encode())
    for stamp in index.stamps:
        found.update(f"{stamp.name}\n{stamp.size_bytes} {stamp.mtime_ns} {stamp.etag}\n".encode())
    columns: list[Any] = [index.labels, index.payload_offsets]
    if index.extents is not None:
        columns += [index.extents.offsets, index.extents.lengths]
    for column in columns:
        if column is not None:
            found.update(np.ascontiguousarray(column).data)
    return found.hexdigest()

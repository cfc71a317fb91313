"""Where every record of a set lies, as numbers: what an index holds, and what it is built from.

    ShardStamp    name, size and time of one shard: is it still what was indexed?
    RecordLayout  one stride for all records, or none, or samples of unequal size
    ShardIndex    both, with places and labels of all records

`index.py` keeps them, `index_build.py` builds them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..objects import ObjectStat, fetched, stat_objects
from ..plan import Indices
from ..read_errors import naming
from ..remote import RemotePath, ShardPath
from .ragged import Extents


class ShardFormatError(ValueError):
    """A shard is not what its name or the data set's description says."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """One layout for every record of a set: `stride_bytes` from record to record, pixels at `payload_offset`.

    Where records do not lie at one stride it is None, `payload_offset` is 0, and the index has `payload_offsets`; where
    samples need not have one size, its `extents`, and `mean_bytes` stands for a sample's bytes wherever room is
    estimated.  `shape` is then (): there is none that all have.  `codec` says that samples are encoded images, and how
    the first one is.
    """

    stride_bytes: int | None
    payload_offset: int
    shape: tuple[int, ...]
    dtype: str
    mean_bytes: int | None = None
    codec: str | None = None

    @property
    def ragged(self) -> bool:
        """Whether samples need not have one size: batches are then lists."""
        return self.mean_bytes is not None

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return np.dtype(self.dtype).itemsize

    @property
    def payload_bytes(self) -> int:
        """Bytes of one record's pixels; on average where samples differ."""
        return math.prod(self.shape) * self.item_bytes if self.mean_bytes is None else self.mean_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes from record to record in a batch: the stride, or the pixels alone where there is none."""
        return self.payload_bytes if self.stride_bytes is None else self.stride_bytes


@dataclass(frozen=True, slots=True)
class ShardStamp:
    """What tells a shard from a changed one; only objects on a server have an `etag`, and not all of those."""

    name: str
    size_bytes: int
    mtime_ns: int
    etag: str = ""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Every record of a set: shard k holds records first_records[k] .. first_records[k] + shard_sizes[k] - 1.

    `payload_offsets` (n,), exactly where the layout has no stride, is where in its shard each record's pixels start.
    Of an image folder a shard is one folder with images in it; labels are positions in `classes`.
    """

    layout: RecordLayout
    stamps: tuple[ShardStamp, ...]
    shard_sizes: tuple[int, ...]
    first_records: Indices
    labels: npt.NDArray[np.int64]
    payload_offsets: npt.NDArray[np.int64] | None = None
    layout_reason: str = ""
    status: str = "built"
    location: Path | None = None
    extents: Extents | None = None
    classes: tuple[str, ...] = ()

    @property
    def num_records(self) -> int:
        """Records of all shards."""
        return len(self.labels)

    @property
    def record_bytes(self) -> int:
        """Bytes on disk of one record, framing included; the mean where records differ."""
        return sum(stamp.size_bytes for stamp in self.stamps) // max(1, self.num_records)


def stamps_of(paths: Sequence[ShardPath]) -> tuple[ShardStamp, ...]:
    """Name, size and time of change of each shard; of objects, which are asked for together, also the etag."""
    objects = [path for path in paths if isinstance(path, RemotePath)]
    found = dict(zip(objects, stat_objects(objects), strict=True)) if objects else {}
    return tuple(_stamp(path, found) for path in paths)


def _stamp(path: ShardPath, found: Mapping[RemotePath, ObjectStat]) -> ShardStamp:
    if isinstance(path, RemotePath):
        return ShardStamp(path.name, found[path].size_bytes, found[path].mtime_ns, found[path].etag)
    status = path.stat()
    return ShardStamp(path.name, status.st_size, status.st_mtime_ns)


def first_records_of(sizes: Sequence[int]) -> Indices:
    """The number of each shard's first record."""
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)


@contextmanager
def opened(path: ShardPath, mark: ShardStamp) -> Iterator[int]:
    """A file descriptor of a shard; of an object as `mark` describes it that of a copy, which goes with the block."""
    if isinstance(path, RemotePath):
        with fetched(path, ObjectStat(mark.size_bytes, mark.etag, mark.mtime_ns)) as fd:
            yield fd
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with naming(path):
            yield fd
    finally:
        os.close(fd)

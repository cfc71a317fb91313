"""Which reads a stream makes, in which order.

    sequential    stream t of n starts at t/n of the data and walks on, wrapping at the end
    random        whole blocks, uniformly, each stream with its own seed
    shard-replay  the reads the loader makes for rank t of n, in its order

A stream is what one client process would read; its `queue_depth` reads in flight come from that one order.  Reads are
made in batches ahead of time: a loop over a list costs a thread that waits for its next read next to nothing.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ...loaders.decode import place_batch
from ...loaders.plan import batch_runs, epoch_order, rank_share
from ...loaders.prefetch import DEFAULT_READ_BYTES
from ...loaders.shards import ShardSet
from ...results.quantities import binary_size, counted
from ..workload import Access, DataFile, WorkloadError

PAGE_BYTES = 4096
BATCH_READS = 512
BLOCKS_PER_READ = 8


class ReadRequest(NamedTuple):
    """One read: `need` bytes of `path` from `offset`; `length` is what is asked for, aligned where it must be."""

    path: Path
    offset: int
    length: int
    need: int


Batches = Iterator[Sequence[ReadRequest]]


class Streams(Protocol):
    """Makes the endless reads of one stream, in batches."""

    def __call__(self, stream: int, num_streams: int) -> Batches:
        """Reads of stream `stream` of `num_streams`."""


class Source(Protocol):
    """Where a thread gets its reads from."""

    def following(self, batch: Iterator[ReadRequest] | None) -> Iterator[ReadRequest]:
        """What to read when `batch` is at its end; None at the beginning."""


class SharedBatches:
    """One order of reads for several threads: each read goes to one of them.

    Taking from a list's iterator is one step of the interpreter, so only a new batch needs a lock.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._lock = threading.Lock()
        self._current = iter(next(batches))  # made before the clock runs

    def following(self, batch: Iterator[ReadRequest] | None) -> Iterator[ReadRequest]:
        """The batch that is being taken from; a new one where the caller has found that one empty."""
        with self._lock:
            if batch is self._current:
                self._current = iter(next(self._batches))
            return self._current


class Blocks:
    """All whole blocks of all files, numbered through; a file shorter than a block is one block."""

    def __init__(self, files: Sequence[DataFile], block_bytes: int) -> None:
        self._paths = [file.path for file in files]
        self._sizes = np.array([file.size_bytes for file in files], dtype=np.int64)
        self._block_bytes = block_bytes
        counts = np.maximum(1, self._sizes // block_bytes)
        self._firsts = np.cumsum(counts) - counts
        self.total = int(counts.sum())

    def requests(self, numbers: npt.NDArray[np.int64]) -> list[ReadRequest]:
        """The reads of these blocks."""
        which = np.searchsorted(self._firsts, numbers, side="right") - 1
        offsets = (numbers - self._firsts[which]) * self._block_bytes
        needs = np.minimum(self._block_bytes, self._sizes[which] - offsets)
        lengths = -(-needs // PAGE_BYTES) * PAGE_BYTES
        paths = [self._paths[number] for number in which.tolist()]
        return list(map(ReadRequest, paths, offsets.tolist(), lengths.tolist(), needs.tolist()))


def crowding(files: Sequence[DataFile], *, block_bytes: int, load: int) -> str | None:
    """What to say where reads in flight are so many that the same block is often read twice at once, or None."""
    total = Blocks(files, block_bytes).total
    if total >= BLOCKS_PER_READ * load:
        return None
    return (
        f"{counted(load, 'read')} in flight share {counted(total, 'block')} of {binary_size(block_bytes)}: what one "
        f"reads, another may find in a cache; use more data, smaller blocks or fewer reads"
    )


def open_stream(
    files: Sequence[DataFile], *, access: Access, block_bytes: int, stream: int, num_streams: int, seed: int
) -> Batches:
    """The endless reads of stream `stream` of `num_streams`: sequential or random (shard-replay has its own)."""
    blocks = Blocks(files, block_bytes)
    if access == "random":
        random = np.random.Generator(np.random.PCG64DXSM([seed, stream]))
        while True:
            yield blocks.requests(random.integers(0, blocks.total, size=BATCH_READS))
    start = stream * blocks.total // num_streams
    for first in itertools.count(start, BATCH_READS):
        yield blocks.requests(np.arange(first, first + BATCH_READS) % blocks.total)


def replay_stream(
    shards: ShardSet,
    *,
    batch_size: int,
    stream: int,
    num_streams: int,
    alignment: int,
    read_bytes: int = DEFAULT_READ_BYTES,
) -> Batches:
    """The endless reads a loader makes for rank `stream` of `num_streams`, epoch after epoch; a batch is a batch's."""
    index = shards.index
    paths = [path for path in shards.paths if isinstance(path, Path)]  # a sweep is of files
    if num_streams > index.num_records:
        raise WorkloadError(
            f"{paths[0].parent}: {index.num_records} records cannot be split over {num_streams} streams; use "
            f"fewer --threads or more data"
        )
    for epoch in itertools.count():
        order = epoch_order(
            index.shard_sizes,
            seed=shards.seed,
            epoch=epoch,
            mode=shards.shuffle_mode,
            block_records=shards.block_records,
        )
        mine = rank_share(order, rank=stream, world_size=num_streams, batch_size=batch_size, drop_last=False).records
        for start in range(0, len(mine), batch_size):
            runs = batch_runs(mine[start : start + batch_size], index.first_records)
            placed = place_batch(runs, index, alignment=alignment, scatters=alignment == 1, read_bytes=read_bytes)
            yield [ReadRequest(paths[op.shard], op.file_offset, op.length, op.need) for op in placed.reads]

"""Shards of records that have no size in common: made by threads some way ahead, written in order.

unit, unit ...            threads, a bounded number ahead
record | record | ...     caller: one behind the other through two aligned buffers, hashed and written by ShardWriter
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .dataset import ShardFile
from .folder import Progress, temporary
from .shard_writer import ShardWriter

CHUNK_BYTES = 4 << 20

Bytes = NDArray[np.uint8]
Unit = TypeVar("Unit")
Made = TypeVar("Made")


def write_record_shards(
    folder: Path,
    records: Iterator[Iterable[Bytes]],
    *,
    num_records: int,
    records_per_shard: int,
    suffix: str,
    total_bytes: int,
    made: list[Path],
    progress: Progress | None,
) -> Iterator[ShardFile]:
    """Write `records`, each as its pieces, under the shards' temporary names, which are added to `made`.

    `total_bytes` is what `progress` is told of; it may be an estimate.
    """
    done, num_shards = 0, -(-num_records // records_per_shard)
    with ThreadPoolExecutor(1, "write") as pool:
        for shard in range(num_shards):
            name = f"train-{shard:05d}-of-{num_shards:05d}{suffix}"
            count = min(records_per_shard, num_records - shard * records_per_shard)
            made.append(temporary(folder, name))
            with ShardWriter(made[-1], pool) as writer:
                stream = RecordStream(writer)
                for _ in range(count):
                    for piece in next(records):
                        done += stream.write(piece)
                        if progress:
                            progress(min(done, total_bytes), total_bytes)
                stream.flush()
                digest = writer.finish()
            yield ShardFile(name=name, num_images=count, bytes=writer.num_bytes, xxh3_128=digest)


def made_ahead(
    make: Callable[[Unit], Made], units: Iterable[Unit], *, num_threads: int, num_ahead: int, name: str
) -> Generator[Made]:
    """What `make` makes of each unit, in order; as many units as threads and `num_ahead` more are under way."""
    left, pending = iter(units), deque[Future[Made]]()
    pool = ThreadPoolExecutor(num_threads, name)
    try:
        while True:
            while len(pending) < num_threads + num_ahead:
                try:
                    unit = next(left)
                except StopIteration:
                    break
                pending.append(pool.submit(make, unit))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class RecordStream:
    """Bytes of any number, one behind the other, handed to a writer in page-aligned buffers; two take turns."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self._buffers = deque(np.frombuffer(mmap.mmap(-1, CHUNK_BYTES), np.uint8) for _ in range(2))
        self._used = 0

    def write(self, data: Bytes) -> int:
        """Append `data`; returns its length."""
        done = 0
        while done < len(data):
            count = min(len(data) - done, CHUNK_BYTES - self._used)
            self._buffers[0][self._used : self._used + count] = data[done : done + count]
            self._used += count
            done += count
            if self._used == CHUNK_BYTES:
                self.flush()
        return done

    def flush(self) -> None:
        """Hand on what there is; only the last time may that be less than a whole buffer."""
        if self._used:
            self._writer.append(self._buffers[0].data, self._used)
            self._buffers.rotate()
            self._used = 0

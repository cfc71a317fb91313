"""Samples of unequal size: where each one lies, how a batch of them is read, and the views that it is made of.

    file    [frame|sample|frame|....sample....|frame|sample]...  or one sample in each file (.npz)
    buffer  [sample|frame|....sample....|frame|sample]   [sample]   [..sample..]       a range per run of records
             `---- views of one buffer ----'

A run of consecutive records is one range of the file: what lies between its samples is read along and not looked at.
O_DIRECT reads the aligned superset of a range, whose skew is carried into the views, so that nothing is moved.  Only
elements of several bytes that would lie at an odd address are, and count as copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .placement import Move, Placement, cut_reads, rounded_up
from .plan import Indices, Runs

GAP_BYTES = 64 << 10  # what lies between two samples is read along up to this size
VECTOR_BYTES = 64  # where a range may start anywhere, its first sample starts on a cache line

Arrays = list[npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Extents:
    """Where every sample lies in its shard: `offsets` and `lengths` in bytes, int64 (n,), and what it is there.

    A sample is an array of `dtype` with its row of `shapes`, int64 (n, dimensions); without `shapes` it is bytes,
    (length,).  Where `fortran` (n,) is not 0 its first index moves fastest.
    """

    offsets: Indices
    lengths: Indices
    dtype: str = "uint8"
    shapes: Indices | None = None
    fortran: Indices | None = None

    @property
    def mean_bytes(self) -> int:
        """Bytes of a sample, on average."""
        return int(self.lengths.sum()) // max(1, len(self.lengths))

    @property
    def said(self) -> str:
        """The samples' sizes, as sentences tell them."""
        low, high = int(self.lengths.min()), int(self.lengths.max())
        return f"{low} bytes" if low == high else f"{low} to {high} bytes"

    def fits(self, sizes: Sequence[int], bounds: Indices) -> bool:
        """Whether there are as many as `sizes` add up to, all inside shards of `bounds` bytes, and shapes agree."""
        number = sum(sizes)
        if self.offsets.shape != (number,) or self.lengths.shape != (number,):
            return False
        inside = (self.offsets >= 0) & (self.lengths > 0) & (self.offsets + self.lengths <= np.repeat(bounds, sizes))
        if self.shapes is not None:
            item = np.dtype(self.dtype).itemsize
            if len(self.shapes) != number or (np.prod(self.shapes, axis=1) * item != self.lengths).any():
                return False
        return bool(inside.all()) and (self.fortran is None or self.fortran.shape == (number,))


def pool_bytes(extents: Extents, *, batch_size: int, alignment: int) -> int:
    """A buffer size that batches of `batch_size` rarely exceed: their largest samples, each in a range of its own."""
    largest = np.sort(extents.lengths)[-batch_size:]
    return int(largest.sum()) + batch_size * 2 * max(alignment, VECTOR_BYTES)


def place_ragged(runs: Runs, first_records: Indices, extents: Extents, *, alignment: int, read_bytes: int) -> Placement:
    """Read each run's samples as one range, in file order, by reads of at most `read_bytes`."""
    item = np.dtype(extents.dtype).itemsize
    ranges: list[tuple[int, int, int, int]] = []  # shard, start, bytes, and where in the buffer
    moves: list[Move] = []
    places = [0] * int(runs.counts.sum())
    room = payload = 0
    for run in runs:
        first = int(first_records[run.shard]) + run.first
        chosen = slice(first, first + run.num_records)
        for slot, offsets, lengths in _ranges(run.slot, extents.offsets[chosen], extents.lengths[chosen]):
            start, head = offsets[0], offsets[0] % alignment
            need = head + offsets[-1] + lengths[-1] - start
            skew = (room + head) % item  # not 0 for one sample alone: it is bytes that lie side by side
            places[slot : slot + len(offsets)] = [room + head - skew + offset - start for offset in offsets]
            if skew:
                moves.append(Move(room + head, room + head - skew, lengths[0]))
            ranges.append((run.shard, start - head, need, room))
            room += rounded_up(need, max(alignment, VECTOR_BYTES))
            payload += sum(lengths)
    whole = len(ranges) == 1 and alignment == 1 and ranges[0][1] % item == 0
    reads = cut_reads(*np.array(ranges, dtype=np.int64).T, alignment=alignment, read_bytes=read_bytes)
    return Placement(reads, tuple(moves), 0, payload, places=tuple(places), size_bytes=room, whole=whole)


def _ranges(slot: int, offsets: Indices, lengths: Indices) -> Iterator[tuple[int, list[int], list[int]]]:
    """First slot, offsets and lengths of consecutive samples with little between them."""
    gaps = offsets[1:] - offsets[:-1] - lengths[:-1]
    cuts = np.flatnonzero((gaps > GAP_BYTES) | (gaps < 0)) + 1
    begin = 0
    for stop in [*cuts.tolist(), len(offsets)]:
        yield slot + begin, offsets[begin:stop].tolist(), lengths[begin:stop].tolist()
        begin = stop


def sample_views(memory: npt.NDArray[np.uint8], records: Indices, places: Sequence[int], extents: Extents) -> Arrays:
    """The samples of a batch as arrays over `memory`, each with the shape and dtype that it has in its file."""
    lengths: list[int] = extents.lengths[records].tolist()
    if extents.shapes is None:
        return [memory[place : place + length] for place, length in zip(places, lengths, strict=True)]
    shapes: list[list[int]] = extents.shapes[records].tolist()
    orders = [0] * len(records) if extents.fortran is None else extents.fortran[records].tolist()
    return [
        np.ndarray(shape, extents.dtype, buffer=memory, offset=place, order="F" if fortran else "C")
        for place, shape, fortran in zip(places, shapes, orders, strict=True)
    ]

"""Samples of unequal size: where each one lies, how a batch of them is read, and the views that it is made of.

    file    [frame|sample|frame|....sample....|frame|sample]...  or one sample in each file (.npz)
    buffer  [sample|frame|....sample....|frame|sample]   [sample]   [..sample..]       a range per run of records
             `---- views of one buffer ----'

A run of consecutive records is one range of the file: what lies between its samples is read along and not looked at.
O_DIRECT reads the aligned superset of a range, whose skew is carried into the views, so that nothing is moved.  Only
elements of several bytes that would lie at an odd address are, and count as copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..placement import Move, Placement, cut_reads, rounded_up
from ..plan import Indices, Runs

GAP_BYTES = 64 << 10  # what lies between two samples is read along up to this size
VECTOR_BYTES = 64  # where a range may start anywhere, its first sample starts on a cache line

Arrays = list[npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Extents:
    """Where every sample lies in its shard: `offsets` and `lengths` in bytes, int64 (n,), and what it is there.

    A sample is an array of `dtype` with its row of `shapes`, int64 (n, dimensions); without `shapes` it is bytes,
    (length,).  Where `fortran` (n,) is not 0 its first index moves fastest.  With `files` each sample is a file of its
    own, whatever shard it counts to: reads name the files by the samples' numbers.
    """

    offsets: Indices
    lengths: Indices
    dtype: str = "uint8"
    shapes: Indices | None = None
    fortran: Indices | None = None
    files: bool = False

    @property
    def mean_bytes(self) -> int:
        """Bytes of a sample, on average."""
        return int(self.lengths.sum()) // max(1, len(self.lengths))

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return np.dtype(self.dtype).itemsize

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
        shaped = self.shapes is None or (
            len(self.shapes) == number and (np.prod(self.shapes, axis=1) * self.item_bytes == self.lengths).all()
        )
        return bool(inside.all() and shaped) and (self.fortran is None or self.fortran.shape == (number,))


def pool_bytes(extents: Extents, *, batch_size: int, alignment: int) -> int:
    """A buffer size that batches of `batch_size` rarely exceed: their largest samples, each in a range of its own."""
    largest = np.sort(extents.lengths)[-batch_size:]
    return int(largest.sum()) + batch_size * 2 * max(alignment, VECTOR_BYTES)


def place_ragged(runs: Runs, first_records: Indices, extents: Extents, *, alignment: int, read_bytes: int) -> Placement:
    """Read each run's samples as one range, in file order, by reads of at most `read_bytes`; no Python per sample."""
    run_of = np.repeat(np.arange(len(runs)), runs.counts)
    within = np.arange(len(run_of)) - (runs.counts.cumsum() - runs.counts)[run_of]
    records = (first_records[runs.shards] + runs.firsts)[run_of] + within
    offsets, lengths = extents.offsets[records], extents.lengths[records]
    begins = _range_begins(run_of, offsets, lengths)
    lasts = np.append(begins[1:], len(records)) - 1
    range_of = np.repeat(np.arange(len(begins)), lasts - begins + 1)

    starts = offsets[begins]
    heads = starts % alignment
    needs = heads + offsets[lasts] + lengths[lasts] - starts
    rooms = rounded_up(needs, max(alignment, VECTOR_BYTES))
    targets = rooms.cumsum() - rooms
    skews = (targets + heads) % extents.item_bytes  # not 0 for one sample alone: it is bytes that lie side by side
    places = np.empty(len(records), np.int64)
    places[runs.slots[run_of] + within] = (targets + heads - skews - starts)[range_of] + offsets
    files = records[begins] if extents.files else runs.shards[run_of[begins]]
    reads = cut_reads(files, starts - heads, needs, targets, alignment=alignment, read_bytes=read_bytes)
    return Placement(
        reads,
        _moves(targets + heads, skews, lengths[begins]),
        0,
        int(lengths.sum()),
        places=places,
        size_bytes=int(rooms.sum()),
        whole=len(begins) == 1 and alignment == 1 and int(starts[0]) % extents.item_bytes == 0,
    )


def _range_begins(run_of: Indices, offsets: Indices, lengths: Indices) -> Indices:
    """The first sample of each range: a run's first, and what has much between it and the one before, or is before it.

    Files of their own all begin at 0, and so each is a range.
    """
    gaps = offsets[1:] - offsets[:-1] - lengths[:-1]
    cuts = (run_of[1:] != run_of[:-1]) | (gaps > GAP_BYTES) | (gaps < 0)
    return np.append(0, np.flatnonzero(cuts) + 1)


def _moves(sources: Indices, skews: Indices, lengths: Indices) -> tuple[Move, ...]:
    """To the whole address before, where a sample does not lie at one."""
    chosen = np.flatnonzero(skews)
    columns = (sources[chosen], sources[chosen] - skews[chosen], lengths[chosen])
    return tuple(map(Move, *(column.tolist() for column in columns)))


def sample_views(memory: npt.NDArray[np.uint8], records: Indices, places: Indices, extents: Extents) -> Arrays:
    """The samples of a batch as arrays over `memory`, each with the shape and dtype that it has in its file."""
    if extents.shapes is None:
        ends = places + extents.lengths[records]
        return [memory[start:end] for start, end in zip(places.tolist(), ends.tolist(), strict=True)]
    shapes: list[list[int]] = extents.shapes[records].tolist()
    orders = [0] * len(records) if extents.fortran is None else extents.fortran[records].tolist()
    return [
        np.ndarray(shape, extents.dtype, buffer=memory, offset=place, order="F" if fortran else "C")
        for place, shape, fortran in zip(places.tolist(), shapes, orders, strict=True)
    ]

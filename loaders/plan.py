"""Plans: which rank reads which records, in which order.  Pure functions of numbers; nothing here touches a file.

    epoch order (seed, epoch, mode) -> this rank's contiguous slice -> batches -> runs of consecutive records

The order depends on (seed, epoch, rank, world_size, mode) alone, so that resuming is exact, with any number of threads.
Modes: `off` the order on disk; `shards` whole shards permuted; `blocks` runs of records permuted, one read each;
`records` a full permutation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
ShuffleMode = Literal["off", "shards", "blocks", "records"]
SHUFFLE_MODES: tuple[str, ...] = get_args(ShuffleMode)


@dataclass(frozen=True)
class Share:
    """What one rank gets of an epoch: its records in order, and how many records no rank gets."""

    records: Indices
    num_dropped: int


class Run(NamedTuple):
    """`num_records` consecutive records of one shard, which go to consecutive slots of a batch."""

    shard: int
    first: int
    num_records: int
    slot: int


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of a batch in file order, a column each: a batch of single records costs no Python per record."""

    shards: Indices
    firsts: Indices
    counts: Indices
    slots: Indices

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[Run]:
        columns = (self.shards, self.firsts, self.counts, self.slots)
        return map(Run._make, zip(*(column.tolist() for column in columns), strict=True))


def epoch_order(
    shard_sizes: Sequence[int], *, seed: int, epoch: int, mode: ShuffleMode, block_records: int = 1
) -> Indices:
    """The order of all records in one epoch: a permutation of 0..sum(shard_sizes)-1."""
    num_records = int(sum(shard_sizes))
    if mode == "off":
        return np.arange(num_records, dtype=np.int64)
    random = np.random.Generator(np.random.PCG64DXSM([seed, epoch]))
    if mode == "records":
        return random.permutation(num_records)
    starts, counts = _pieces(shard_sizes, max([1, *shard_sizes]) if mode == "shards" else block_records)
    chosen = random.permutation(len(starts))
    return _join(starts[chosen], counts[chosen])


def rank_share(order: Indices, *, rank: int, world_size: int, batch_size: int, drop_last: bool) -> Share:
    """This rank's contiguous slice of the epoch.

    Without drop_last every record goes to exactly one rank, and slices differ by at most one record.  With it every
    rank has floor(floor(n / world_size) / batch_size) whole batches.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of world_size {world_size}; ranks count from 0")
    total = len(order)
    if not drop_last:
        return Share(order[rank * total // world_size : (rank + 1) * total // world_size], 0)
    keep = total // world_size // batch_size * batch_size
    start = rank * (total // world_size)
    return Share(order[start : start + keep], total - keep * world_size)


def even_share(order: Indices, *, rank: int, world_size: int, batch_size: int) -> Share:
    """This rank's part of an epoch in which every rank has the same batches, none left out.

    In the last step the ranks share what is left; where it does not divide, the first records of the epoch fill up the
    last ranks, so that the repeated ones (fewer than `world_size`) stand at the end of that step, rank behind rank.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of world_size {world_size}; ranks count from 0")
    whole = len(order) // (batch_size * world_size) * batch_size
    left = len(order) - whole * world_size
    size = -(-left // world_size)
    last = np.arange(rank * size, (rank + 1) * size) + whole * world_size
    return Share(np.concatenate((order[rank * whole : (rank + 1) * whole], order[last % len(order)])), 0)


def endless_batches(
    shard_sizes: Sequence[int],
    *,
    seed: int,
    mode: ShuffleMode,
    block_records: int,
    rank: int,
    world_size: int,
    batch_size: int,
) -> Iterator[Indices]:
    """Whole batches of this rank for ever, epoch behind epoch without a seam: one very long epoch of a small sample."""
    if sum(shard_sizes) < world_size:
        raise ValueError(f"{sum(shard_sizes)} records for {world_size} ranks: a rank without a record would never end")
    left = np.empty(0, dtype=np.int64)
    for epoch in itertools.count():
        order = epoch_order(shard_sizes, seed=seed, epoch=epoch, mode=mode, block_records=block_records)
        share = rank_share(order, rank=rank, world_size=world_size, batch_size=batch_size, drop_last=False)
        left = np.concatenate((left, share.records))
        whole = len(left) // batch_size * batch_size
        yield from left[:whole].reshape(-1, batch_size)
        left = left[whole:]


def num_batches(num_records: int, *, rank: int, world_size: int, batch_size: int, drop_last: bool) -> int:
    """How many batches this rank has in an epoch of `num_records`."""
    if drop_last:
        return num_records // world_size // batch_size
    share = (rank + 1) * num_records // world_size - rank * num_records // world_size
    return -(-share // batch_size)


def batch_runs(records: Indices, first_records: Indices) -> Runs:
    """Split one batch into runs of consecutive records; `first_records` holds each shard's first record number."""
    if (whole := _one_run(records, first_records)) is not None:
        return whole
    owners = np.searchsorted(first_records, records, side="right") - 1
    edges = np.ones(len(records) + 1, dtype=np.bool_)
    edges[1:-1] = (records[1:] != records[:-1] + 1) | (owners[1:] != owners[:-1])
    bounds = edges.nonzero()[0]
    slots, counts = bounds[:-1], bounds[1:] - bounds[:-1]
    if len(slots) > 1:
        order = np.argsort(records[slots])
        slots, counts = slots[order], counts[order]
    shards = owners[slots]
    return Runs(shards, records[slots] - first_records[shards], counts, slots)


def _one_run(records: Indices, first_records: Indices) -> Runs | None:
    """A batch of consecutive records of one shard, which most are but for a full shuffle; None for any other."""
    first, count = int(records[0]), len(records)
    if int(records[-1]) - first != count - 1 or not (records[1:] - records[:-1] == 1).all():
        return None
    shard = int(first_records.searchsorted(first, side="right")) - 1
    if shard + 1 < len(first_records) and first + count > first_records[shard + 1]:
        return None
    return Runs(*np.array([[shard], [first - int(first_records[shard])], [count], [0]]))


def _pieces(shard_sizes: Sequence[int], longest: int) -> tuple[Indices, Indices]:
    """Cut every shard into pieces of at most `longest` records: first record and count of each piece."""
    starts: list[int] = []
    counts: list[int] = []
    first = 0
    for size in shard_sizes:
        for start in range(0, size, longest):
            starts.append(first + start)
            counts.append(min(longest, size - start))
        first += size
    return np.array(starts, dtype=np.int64), np.array(counts, dtype=np.int64)


def _join(starts: Indices, counts: Indices) -> Indices:
    """Concatenate the ranges start..start+count."""
    begins = np.cumsum(counts) - counts
    joined: Indices = np.arange(counts.sum(), dtype=np.int64) + np.repeat(starts - begins, counts)
    return joined

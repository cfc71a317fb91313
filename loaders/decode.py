"""Bytes in a buffer -> a batch: where each run of records is read to, and the strided view over all of them.

    file    [frame|pixels|label][frame|pixels|label][frame|pixels|label]...     stride_bytes each
    buffer  [frame|pixels|label][frame|pixels|label]...                         slot i at skew + i * stride_bytes
    batch   as_strided(buffer + skew + payload_offset, (B, H, W, C), (stride_bytes, W*C, C, 1))    no copy

Where records do not lie at one stride, slots hold pixels only, and one read scatters a run of records: pixels into
their slots, what lies between them into a scratch place.

    file    [fra|pixels|labe][frame|pixels|lab][f|pixels|label]...
    buffer  [pixels][pixels][pixels]...   [scratch]                             slot i at i * payload_bytes

O_DIRECT reads aligned supersets and cannot scatter.  Where the stride is a multiple of the alignment (`iobench
generate` sees to that) or the batch is one run, the superset lands in place and its skew is carried into the view.
Else records are read beside the slots and moved into them once; those bytes are counted as copied, and shown.
"""

from __future__ import annotations

import numpy as np

from .formats.ragged import place_ragged
from .formats.records import RecordLayout, ShardIndex
from .placement import Move, Part, Placement, ReadOp, Reads, cut_reads, rounded_up
from .plan import Indices, Runs

MAX_PARTS = 1000  # of one read; IOV_MAX is 1024
SCRATCH_BYTES = 64 << 10  # a gap between two payloads that is larger is skipped, not read


def buffer_bytes(layout: RecordLayout, *, batch_size: int, alignment: int) -> int:
    """How large a buffer must be for any batch of `batch_size` records."""
    slots = batch_size * layout.slot_bytes
    if layout.stride_bytes is None:
        beside = batch_size * (layout.payload_bytes + 2 * alignment) if alignment > 1 else SCRATCH_BYTES
        return rounded_up(slots, alignment) + beside + alignment
    if alignment == 1 or layout.stride_bytes % alignment == 0:
        return slots + 2 * alignment
    return 2 * slots + 2 * alignment * (batch_size + 2)  # slots, and room beside them for every run's superset


def place_batch(runs: Runs, index: ShardIndex, *, alignment: int, scatters: bool, read_bytes: int) -> Placement:
    """Decide where each run of a batch is read to, as the index's layout and the reader allow."""
    if index.extents is not None:
        return place_ragged(runs, index.first_records, index.extents, alignment=alignment, read_bytes=read_bytes)
    if index.layout.stride_bytes is not None:
        return place(runs, index.layout, alignment=alignment, read_bytes=read_bytes)
    if scatters:
        return place_scattered(runs, index, read_bytes=read_bytes)
    return place_apart(runs, index, alignment=alignment)


def place(runs: Runs, layout: RecordLayout, *, alignment: int, read_bytes: int) -> Placement:
    """Records at one stride: whole runs; reads are at most `read_bytes` long and in file order."""
    if len(runs) == 1:
        return _place_run(runs, layout, alignment=alignment, read_bytes=read_bytes)
    stride = layout.slot_bytes
    num_records = int(runs.counts.sum())
    if alignment == 1:  # every run lands in its slots
        starts, lengths, slots = runs.firsts * stride, runs.counts * stride, runs.slots * stride
        reads = cut_reads(runs.shards, starts, lengths, slots, alignment=1, read_bytes=read_bytes)
        return Placement(reads, (), 0, num_records * layout.payload_bytes)
    skew = int(runs.firsts[runs.slots.argmin()]) * stride % alignment
    offsets, lengths, slots = runs.firsts * stride, runs.counts * stride, runs.slots * stride + skew
    heads = offsets % alignment
    targets = slots - heads
    moves: tuple[Move, ...] = ()
    aside = (heads + slots % alignment + lengths % alignment) > 0
    if aside.any():
        room = np.where(aside, rounded_up(heads + lengths, alignment), 0)
        beside = rounded_up(skew + num_records * stride, alignment) + room.cumsum() - room
        targets = np.where(aside, beside, targets)
        moves = _moves((beside + heads)[aside], slots[aside], lengths[aside])
    reads = cut_reads(
        runs.shards, offsets - heads, heads + lengths, targets, alignment=alignment, read_bytes=read_bytes
    )
    return Placement(reads, moves, skew, num_records * layout.payload_bytes)


def _place_run(runs: Runs, layout: RecordLayout, *, alignment: int, read_bytes: int) -> Placement:
    """A batch of one run, as most are: it lies in the buffer as in the file, and numbers are quicker than arrays."""
    shard, first, count = int(runs.shards[0]), int(runs.firsts[0]), int(runs.counts[0])
    offset = first * layout.slot_bytes
    skew = offset % alignment
    need = skew + count * layout.slot_bytes
    if need <= read_bytes:
        reads = Reads.of([ReadOp(shard, offset - skew, rounded_up(need, alignment), need, 0)])
    else:
        columns = np.array([[shard], [offset - skew], [need], [0]])
        reads = cut_reads(*columns, alignment=alignment, read_bytes=read_bytes)
    return Placement(reads, (), skew, count * layout.payload_bytes)


def place_scattered(runs: Runs, index: ShardIndex, *, read_bytes: int) -> Placement:
    """Records at places of their own, and a reader that scatters: one read per run, pixels into payload-only slots."""
    size = index.layout.payload_bytes
    num_records = int(runs.counts.sum())
    if len(runs) == num_records:
        offsets, sizes = _payloads(index)[_numbers(runs, index)], np.full(num_records, size)
        reads = cut_reads(runs.shards, offsets, sizes, runs.slots * size, alignment=1, read_bytes=read_bytes)
        return Placement(reads, (), 0, num_records * size)
    return Placement(_scattered(runs, index, read_bytes), (), 0, num_records * size)


def _scattered(runs: Runs, index: ShardIndex, read_bytes: int) -> Reads:
    size = index.layout.payload_bytes
    scratch = int(runs.counts.sum()) * size
    reads: list[ReadOp] = []
    for run in runs:
        parts: list[Part] = []
        start = end = length = 0
        first = int(index.first_records[run.shard]) + run.first
        offsets = _payloads(index)[first : first + run.num_records].tolist()
        for slot, offset in enumerate(offsets, run.slot):
            gap = offset - end
            if parts and (length + gap + size > read_bytes or len(parts) + 2 > MAX_PARTS or gap > SCRATCH_BYTES):
                reads.append(ReadOp(run.shard, start, length, length, 0, tuple(parts)))
                parts, length = [], 0
            if not parts:
                start = offset
            elif gap:
                parts.append((scratch, gap))
                length += gap
            parts.append((slot * size, size))
            length += size
            end = offset + size
        reads.append(ReadOp(run.shard, start, length, length, 0, tuple(parts)))
    return Reads.of(reads)


def place_apart(runs: Runs, index: ShardIndex, *, alignment: int) -> Placement:
    """Records at places of their own, and a reader that cannot scatter: each is read beside the slots and moved."""
    size = index.layout.payload_bytes
    which = np.repeat(np.arange(len(runs)), runs.counts)  # the run of each record
    within = np.arange(len(which)) - (runs.counts.cumsum() - runs.counts)[which]
    offsets = _payloads(index)[_numbers(runs, index)[which] + within]
    heads = offsets % alignment
    lengths = rounded_up(heads + size, alignment)
    beside = rounded_up(len(which) * size, alignment) + lengths.cumsum() - lengths
    reads = Reads(runs.shards[which], offsets - heads, lengths, heads + size, beside)
    moves = _moves(beside + heads, (runs.slots[which] + within) * size, np.full(len(which), size))
    return Placement(reads, moves, 0, len(which) * size)


def view_geometry(
    layout: RecordLayout, num_records: int, first_record: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape (B, H, W, C), byte strides and byte offset of the batch's view."""
    height, width, channels = layout.shape
    item = layout.item_bytes
    strides = (layout.slot_bytes, width * channels * item, channels * item, item)
    return (num_records, height, width, channels), strides, first_record + layout.payload_offset


def _payloads(index: ShardIndex) -> Indices:
    """Where in its shard each record's pixels start; the index has them exactly where there is no stride."""
    assert index.payload_offsets is not None
    return index.payload_offsets


def _numbers(runs: Runs, index: ShardIndex) -> Indices:
    """The record number that each run begins with."""
    return index.first_records[runs.shards] + runs.firsts


def _moves(sources: Indices, targets: Indices, lengths: Indices) -> tuple[Move, ...]:
    return tuple(map(Move, sources.tolist(), targets.tolist(), lengths.tolist()))

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

from collections.abc import Sequence

from .index import RecordLayout, ShardIndex
from .placement import Move, Part, Placement, ReadOp, rounded_up, split_read
from .plan import Run
from .ragged import place_ragged

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


def place_batch(
    runs: Sequence[Run], index: ShardIndex, *, alignment: int, scatters: bool, read_bytes: int
) -> Placement:
    """Decide where each run of a batch is read to, as the index's layout and the reader allow."""
    if index.extents is not None:
        return place_ragged(runs, index.first_records, index.extents, alignment=alignment, read_bytes=read_bytes)
    if index.layout.stride_bytes is not None:
        return place(runs, index.layout, alignment=alignment, read_bytes=read_bytes)
    if scatters:
        return place_scattered(runs, index, read_bytes=read_bytes)
    return place_apart(runs, index, alignment=alignment)


def place(runs: Sequence[Run], layout: RecordLayout, *, alignment: int, read_bytes: int) -> Placement:
    """Records at one stride: whole runs; reads are at most `read_bytes` long and in file order."""
    stride = layout.slot_bytes
    num_records = sum(run.num_records for run in runs)
    skew = runs[0].first * stride % alignment
    beside = rounded_up(skew + num_records * stride, alignment)
    reads: list[ReadOp] = []
    moves: list[Move] = []
    for shard, first, count, number in sorted(runs):
        offset, length, slot = first * stride, count * stride, skew + number * stride
        head = offset % alignment
        if len(runs) == 1 or (head == 0 and slot % alignment == 0 and length % alignment == 0):
            target = slot - head
        else:
            target = beside
            moves.append(Move(beside + head, slot, length))
            beside += rounded_up(head + length, alignment)
        if head + length <= read_bytes:
            reads.append(ReadOp(shard, offset - head, rounded_up(head + length, alignment), head + length, target))
        else:
            reads += split_read(shard, offset - head, head + length, target, alignment=alignment, read_bytes=read_bytes)
    return Placement(tuple(reads), tuple(moves), skew, num_records * layout.payload_bytes)


def place_scattered(runs: Sequence[Run], index: ShardIndex, *, read_bytes: int) -> Placement:
    """Records at places of their own, and a reader that scatters: one read per run, pixels into payload-only slots."""
    size = index.layout.payload_bytes
    num_records = sum(run.num_records for run in runs)
    scratch = num_records * size
    reads: list[ReadOp] = []
    for run in sorted(runs):
        parts: list[Part] = []
        start = end = length = 0
        for slot, offset in enumerate(_payload_offsets(run, index), run.slot):
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
    return Placement(tuple(reads), (), 0, num_records * size)


def place_apart(runs: Sequence[Run], index: ShardIndex, *, alignment: int) -> Placement:
    """Records at places of their own, and a reader that cannot scatter: each is read beside the slots and moved."""
    size = index.layout.payload_bytes
    num_records = sum(run.num_records for run in runs)
    beside = rounded_up(num_records * size, alignment)
    reads: list[ReadOp] = []
    moves: list[Move] = []
    for run in sorted(runs):
        for slot, offset in enumerate(_payload_offsets(run, index), run.slot):
            head = offset % alignment
            length = rounded_up(head + size, alignment)
            reads.append(ReadOp(run.shard, offset - head, length, head + size, beside))
            moves.append(Move(beside + head, slot * size, size))
            beside += length
    return Placement(tuple(reads), tuple(moves), 0, num_records * size)


def view_geometry(
    layout: RecordLayout, num_records: int, first_record: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape (B, H, W, C), byte strides and byte offset of the batch's view."""
    height, width, channels = layout.shape
    item = layout.item_bytes
    strides = (layout.slot_bytes, width * channels * item, channels * item, item)
    return (num_records, height, width, channels), strides, first_record + layout.payload_offset


def _payload_offsets(run: Run, index: ShardIndex) -> list[int]:
    assert index.payload_offsets is not None  # the index has them exactly where there is no stride
    first = int(index.first_records[run.shard]) + run.first
    offsets: list[int] = index.payload_offsets[first : first + run.num_records].tolist()
    return offsets

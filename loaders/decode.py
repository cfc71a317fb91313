"""Bytes in a buffer -> a batch: where each run of records is read to, and the strided view over all of them.

    file    [frame|pixels|label][frame|pixels|label][frame|pixels|label]...     stride_bytes each
    buffer  [frame|pixels|label][frame|pixels|label]...                         slot i at skew + i * stride_bytes
    batch   as_strided(buffer + skew + payload_offset, (B, H, W, C), (stride_bytes, W*C, C, 1))    no copy

O_DIRECT reads aligned supersets.  Where the stride is a multiple of the alignment (`iobench generate` sees to that) or
the batch is one run, the superset lands in place and its skew is carried into the view.  Else a run is read beside the
slots and moved into them once; those bytes are counted as copied, and the record shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .index import RecordLayout
from .plan import Run


@dataclass(frozen=True, slots=True)
class ReadOp:
    """One read: `length` bytes of a shard from `file_offset` to `buffer_offset`, of which `need` must come."""

    shard: int
    file_offset: int
    length: int
    need: int
    buffer_offset: int


@dataclass(frozen=True, slots=True)
class Move:
    """`length` bytes from one place of the buffer to another, after the reads are done."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Placement:
    """How a batch comes into a buffer, and where its first record starts there."""

    reads: tuple[ReadOp, ...]
    moves: tuple[Move, ...]
    first_record: int
    payload_bytes: int


def buffer_bytes(layout: RecordLayout, *, batch_size: int, alignment: int) -> int:
    """How large a buffer must be for any batch of `batch_size` records."""
    slots = batch_size * layout.stride_bytes
    if alignment == 1 or layout.stride_bytes % alignment == 0:
        return slots + 2 * alignment
    return 2 * slots + 2 * alignment * (batch_size + 2)  # slots, and room beside them for every run's superset


def place(runs: Sequence[Run], layout: RecordLayout, *, alignment: int, read_bytes: int) -> Placement:
    """Decide where each run is read to; reads are at most `read_bytes` long and in file order."""
    stride = layout.stride_bytes
    skew = layout.record_offset(runs[0].first) % alignment
    num_records = sum(run.count for run in runs)
    beside = _up(skew + num_records * stride, alignment)
    reads: list[ReadOp] = []
    moves: list[Move] = []
    for run in sorted(runs, key=lambda run: (run.shard, run.first)):
        offset, length, slot = layout.record_offset(run.first), run.count * stride, skew + run.slot * stride
        head = offset % alignment
        in_place = len(runs) == 1 or (head == 0 and slot % alignment == 0 and length % alignment == 0)
        target = slot - head if in_place else beside
        if not in_place:
            moves.append(Move(beside + head, slot, length))
            beside += _up(head + length, alignment)
        reads += _split(run.shard, offset - head, head + length, target, alignment, read_bytes)
    return Placement(tuple(reads), tuple(moves), skew, num_records * layout.payload_bytes)


def view_geometry(
    layout: RecordLayout, num_records: int, first_record: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape (B, H, W, C), byte strides and byte offset of the batch's view."""
    height, width, channels = layout.shape
    item = layout.item_bytes
    strides = (layout.stride_bytes, width * channels * item, channels * item, item)
    return (num_records, height, width, channels), strides, first_record + layout.payload_offset


def _split(shard: int, start: int, need: int, target: int, alignment: int, read_bytes: int) -> list[ReadOp]:
    step = max(alignment, read_bytes - read_bytes % max(alignment, 1))
    return [
        ReadOp(shard, start + done, _up(min(step, need - done), alignment), min(step, need - done), target + done)
        for done in range(0, need, step)
    ]


def _up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment

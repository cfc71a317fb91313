"""The proof of where pixels lie: each record of a shard is parsed, or spelled as one that was parsed.

    a payload of L bytes, P of them pixels     |tags, names, sizes|.... PIXELS ....|label, text, more tags|
                                               |<-- head: L - P -->|      |<------- tail: L - P ------->|

Whatever the order of the features, all that is no pixel lies in the first or the last L - P bytes.  These are read of
every record, one read per boundary between two records.  A parsed record is a spelling: each of its bits is fixed, or
free to differ from record to record:

    |tags, names, lengths|PIXELS|tags...|label and other numbers|text|crc|
     fixed                free   fixed   low 7 bits free         free free

A record of the same length whose fixed bits are equal parses exactly as that one does.  Equal lengths alone prove
nothing: the order of a tf.Example's features is not fixed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..read_errors import failed
from ..remote import ShardPath
from .example import Feature, walk_example
from .fields import (
    DLIO_FIELDS,
    NO_LABEL,
    First,
    LayoutError,
    Parsed,
    Shape,
    Wanted,
    codec_of,
    is_dlio,
    parse_record,
)
from .tfrecord import FRAMING_BYTES, HEAD_BYTES, Frames, TFRecordError

_FIXED, _FREE, _VARINT_FREE = 0xFF, 0x00, 0x80
_EDGE_BYTES = 16 << 20  # of heads and tails that are held at once
_OPAQUE_EDGE_BYTES = 1 << 10  # of a sample of unknown length; what is no sample is sought in that much of each end
_MAX_OPAQUE_LENGTHS = 1024
_MAX_SPELLINGS = 32  # of one length; where records differ more than that, each is parsed

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class ShardLayout(NamedTuple):
    """What was proven of one shard: its frames, where in the file each record's pixels lie, and labels, int64 (n,).

    `payload_bytes` (n,) says how long pixels are, which of opaque samples may differ.
    """

    frames: Frames
    payload_offsets: Int64s
    labels: Int64s
    payload_bytes: Int64s


class _Spelling(NamedTuple):
    """A parsed record's fixed bits, over the row of its edges; and what lies where in all that are spelled alike."""

    row: Bytes
    mask: Bytes
    image_at: int
    image_bytes: int
    label_columns: slice | None


class _Edges(NamedTuple):
    """Heads and tails of consecutive records, framing included: record i's row starts at `starts[i]` of `flat`."""

    frames: Frames
    heads: Int64s
    tails: Int64s
    starts: Int64s
    flat: Bytes

    def rows(self, members: Int64s) -> Bytes:
        """The rows of records of one length, (n, width)."""
        width = int(self.heads[members[0]] + self.tails[members[0]]) + FRAMING_BYTES
        if len(members) * width == len(self.flat):
            return self.flat.reshape(len(members), width)
        chosen: Bytes = np.lib.stride_tricks.sliding_window_view(self.flat, width)[self.starts[members]]
        return chosen


class LayoutProof:
    """Proves one shard after the other; what was learnt of one holds for the next.

    `first` is the first record's shape (H, W, C), which the images of all others must have too.  Where that record's
    image is encoded, `codec` names how, and all are taken as opaque samples.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.first: First | None = None
        self.codec: str | None = None
        self._spellings: dict[int, list[_Spelling]] = {}

    def prove(self, fd: int, frames: Frames, *, path: ShardPath) -> ShardLayout:
        """Find pixels and label of every record; LayoutError or TFRecordError names the first that does not fit."""
        lengths = frames.lengths
        if not len(lengths):
            raise LayoutError(f"{path}: no record in it; take it out of the data folder, or create it again")
        self.first = self.first or self._read_first(fd, int(lengths[0]), path)
        heads = self._head_bytes(lengths, self.first.shape)
        tails = np.minimum(heads, lengths - heads)
        found = ShardLayout(
            frames, np.empty_like(lengths), np.full_like(lengths, NO_LABEL), payload_bytes=np.empty_like(lengths)
        )
        for start, stop in _chunks(heads + tails + FRAMING_BYTES):
            part = slice(start, stop)
            edges = _read_edges(fd, Frames(frames.offsets[part], lengths[part]), heads[part], tails[part], path)
            views = ShardLayout(edges.frames, *(column[part] for column in found[1:]))
            self._prove_part(fd, edges, views, start, path)
        return found

    def _head_bytes(self, lengths: Int64s, shape: Shape) -> Int64s:
        if self.wanted.fields.opaque:
            return np.minimum(lengths, _OPAQUE_EDGE_BYTES)
        pixels = self.wanted.image_bytes(shape)
        return np.where(lengths >= pixels, lengths - pixels, lengths)

    def _read_first(self, fd: int, length: int, path: ShardPath) -> First:
        payload = memoryview(bytearray(length))
        read_exactly(fd, payload, HEAD_BYTES, path)
        if self.wanted == Wanted() and is_dlio(walk_example(payload, where=f"{path}: record 0")):
            self.wanted = Wanted(DLIO_FIELDS)
        where = f"{path}: record 0"
        try:
            parsed = parse_record(payload, self.wanted, where=where)
        except LayoutError:
            self.codec = codec_of(payload, self.wanted, where=where)
            if self.codec is None:
                raise
            self.wanted = Wanted(replace(self.wanted.fields, opaque=True))
            parsed = parse_record(payload, self.wanted, where=where)
        return First(parsed.shape, f"record 0 of {path.name}")

    def _prove_part(self, fd: int, edges: _Edges, found: ShardLayout, start: int, path: ShardPath) -> None:
        """Compare with the spellings that are known; parse what is left in file order, and compare with that."""
        unknown = np.ones(len(edges.starts), dtype=bool)
        lengths = edges.frames.lengths
        groups = {int(lengths[members[0]]): members for members in _by_value(lengths)}
        rows = {length: edges.rows(members) for length, members in groups.items()}
        for length, members in groups.items():
            for spelling in self._spellings.get(length, ()):
                _settle(spelling, rows[length], members, unknown, found)
        record = 0
        while unknown[record:].any():
            record += int(unknown[record:].argmax())
            place, length = int(edges.frames.offsets[record]), int(lengths[record])
            parsed = self._parse(fd, edges, record, f"{path}: record {start + record} (byte {place})", path)
            found.payload_offsets[record] = place + HEAD_BYTES + parsed.image_at
            found.payload_bytes[record] = parsed.image_bytes
            found.labels[record] = parsed.label
            unknown[record] = False
            if self.wanted.fields.opaque and not self._teaches(parsed, edges, record):
                continue
            known = self._spellings.setdefault(length, [])
            if len(known) < _MAX_SPELLINGS:
                known.append(self._spelling(parsed, edges, record))
                _settle(known[-1], rows[length], groups[length], unknown, found)

    def _parse(self, fd: int, edges: _Edges, record: int, where: str, path: ShardPath) -> Parsed:
        """Parse a record from its edges, with zeros for pixels; where they do not lie between, from all its bytes."""
        length, head, tail = (int(column[record]) for column in (edges.frames.lengths, edges.heads, edges.tails))
        payload = memoryview(bytearray(length))
        start = int(edges.starts[record]) + HEAD_BYTES
        payload[:head] = edges.flat[start : start + head].data
        payload[length - tail :] = edges.flat[start + head : start + head + tail].data
        if head + tail < length:
            # An image that covers all the zeros, as one of the right size does wherever it lies: no tag or number was
            # among them.
            with suppress(TFRecordError, LayoutError):
                parsed = parse_record(payload, self.wanted, where=where, first=self.first)
                if _covers(parsed, head, length - tail):
                    return parsed
            read_exactly(fd, payload, int(edges.frames.offsets[record]) + HEAD_BYTES, path)
        return parse_record(payload, self.wanted, where=where, first=self.first)

    def _teaches(self, parsed: Parsed, edges: _Edges, record: int) -> bool:
        """Whether an opaque record says how others are spelled: its edges hold all of it but the sample.

        Where lengths hardly repeat, what was learnt of one record helps no other, and is not kept.
        """
        length, head, tail = (int(column[record]) for column in (edges.frames.lengths, edges.heads, edges.tails))
        return len(self._spellings) < _MAX_OPAQUE_LENGTHS and _covers(parsed, head, length - tail)

    def _spelling(self, parsed: Parsed, edges: _Edges, record: int) -> _Spelling:
        length, head, tail = (int(column[record]) for column in (edges.frames.lengths, edges.heads, edges.tails))
        gap_bytes = length - head - tail
        bits = _fixed_bits(parsed.features, self.wanted, length)
        mask = np.zeros(head + tail + FRAMING_BYTES, dtype=np.uint8)  # the walk over frames has looked at framing
        mask[HEAD_BYTES : HEAD_BYTES + head] = bits[:head]
        mask[HEAD_BYTES + head : HEAD_BYTES + head + tail] = bits[length - tail :]
        columns = None
        if (name := self.wanted.fields.label) is not None:
            at, size = parsed.features[name].spans[0]
            column = HEAD_BYTES + (at if at < head else at - gap_bytes)
            columns = slice(column, column + size)
        start = int(edges.starts[record])
        return _Spelling(
            edges.flat[start : start + len(mask)] & mask, mask, parsed.image_at, parsed.image_bytes, columns
        )


def _covers(parsed: Parsed, start: int, stop: int) -> bool:
    return parsed.image_at <= start and parsed.image_at + parsed.image_bytes >= stop


def _settle(
    spelling: _Spelling, rows: Bytes, members: Int64s, unknown: npt.NDArray[np.bool_], found: ShardLayout
) -> None:
    """Enter every record still unknown among `members`, which have these rows, that is spelled this way."""
    left = unknown[members]
    if not left.all():
        rows, members = rows[left], members[left]
    same = ((rows & spelling.mask) == spelling.row).all(axis=1)
    members = members[same]
    found.payload_offsets[members] = found.frames.offsets[members] + HEAD_BYTES + spelling.image_at
    found.payload_bytes[members] = spelling.image_bytes
    if spelling.label_columns is not None:
        found.labels[members] = _decode_varints(rows[same, spelling.label_columns])
    unknown[members] = False


def _fixed_bits(features: Mapping[str, Feature], wanted: Wanted, length: int) -> Bytes:
    """For each byte of a payload which bits decide how it is parsed, and what shape its image has."""
    fields = wanted.fields
    sizes = () if wanted.shape else (fields.height, fields.width, fields.channels)
    mask = np.full(length, _FIXED, dtype=np.uint8)
    for name, feature in features.items():
        if name in sizes:
            continue
        freedom = _VARINT_FREE if feature.kind == "int64" else _FREE
        for offset, size in feature.spans:
            mask[offset : offset + size] = freedom
    return mask


def _chunks(sizes: Int64s) -> Iterator[tuple[int, int]]:
    """Ranges of records whose sizes add up to about _EDGE_BYTES."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = int(ends[start] - sizes[start])
        stop = max(start + 1, int(np.searchsorted(ends, done + _EDGE_BYTES, side="right")))
        yield start, stop
        start = stop


def _by_value(values: Int64s) -> list[Int64s]:
    """Positions of equal values, each list of them in ascending order."""
    order = np.argsort(values, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1)


def _read_edges(fd: int, frames: Frames, heads: Int64s, tails: Int64s, path: ShardPath) -> _Edges:
    sizes = heads + tails + FRAMING_BYTES
    starts = np.cumsum(sizes) - sizes
    flat = np.empty(int(sizes.sum()), dtype=np.uint8)
    # the tail of a record and the head of the next lie side by side, in the file and in `flat`
    cuts: Sequence[int] = (starts + HEAD_BYTES + heads).tolist()
    sources: Sequence[int] = (frames.offsets + HEAD_BYTES + frames.lengths - tails).tolist()
    begin, source = 0, int(frames.offsets[0])
    for cut, following in zip(cuts, sources, strict=True):
        read_exactly(fd, flat.data[begin:cut], source, path)
        begin, source = cut, following
    read_exactly(fd, flat.data[begin:], source, path)
    return _Edges(frames, heads, tails, starts, flat)


def read_exactly(fd: int, target: memoryview, offset: int, path: ShardPath) -> None:
    """Fill `target` from `offset` of the file; LayoutError where the file ends before."""
    done = 0
    while done < len(target):
        try:
            count = os.preadv(fd, [target[done:]], offset + done)
        except OSError as error:
            raise OSError(error.errno, failed(len(target) - done, offset + done, error), str(path)) from error
        if count == 0:
            raise LayoutError(f"{path}: cut at byte {offset + done} while it was read; copy or create this shard again")
        done += count


def _decode_varints(columns: Bytes) -> Int64s:
    shifts = np.arange(columns.shape[1], dtype=np.uint64) * np.uint64(7)
    parts = (columns & 0x7F).astype(np.uint64) << shifts
    values: Int64s = np.bitwise_or.reduce(parts, axis=1).view(np.int64)
    return values

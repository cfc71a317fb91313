"""The TFRecord byte format: framing, and a walk over it that trusts no unchecked length.

A file is a run of framed records and nothing else; all numbers are little-endian:

    offset  0        8            12                        12 + length
            | length | masked crc | payload (length bytes)  | masked crc |  next record ...
            | u64    | u32        |                         | u32        |
                       of length                              of payload

    masked crc = rotate_right(crc32c, 15) + 0xa282ead8  (mod 2**32)

What payloads hold is in example.py.  Source: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from ..read_errors import pread
from ..remote import ShardPath

HEAD_BYTES = 12
FOOT_BYTES = 4
FRAMING_BYTES = HEAD_BYTES + FOOT_BYTES
AGAIN = "copy or create this shard again"

_BLOCK_BYTES = 1 << 20
_SPARSE_BYTES = 16 << 10  # from this record size on, reading the heads alone is cheaper than reading everything
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x28\xb5": "zstd"}


class TFRecordError(ValueError):
    """Bytes that break the TFRecord or tf.Example format; the message says where, which rule, and the way out."""

    exit_status: ClassVar[int] = 4


class Frames(NamedTuple):
    """Where the records of one file are: `offsets` of their heads and `lengths` of their payloads, int64 (n,)."""

    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]


def masked_crc(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """The masked crc32c that frames store, of `data` after what `crc`, a crc32c, was computed of."""
    crc = crc32c(data, crc)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes | bytearray | memoryview) -> bytes:
    """One payload with its framing, as it stands in a file."""
    length = len(payload).to_bytes(8, "little")
    crcs = [masked_crc(part).to_bytes(4, "little") for part in (length, payload)]
    return b"".join((length, crcs[0], payload, crcs[1]))


def walk_frames(fd: int, size_bytes: int, *, path: str | ShardPath) -> Frames:
    """Find every record of the file open as `fd` by its 12-byte head; each length crc is checked, no payload is.

    Where the size is a whole multiple of the first record, all heads are first compared with that record's; from the
    first that differs the walk goes on record by record.  An empty file has no records.  Errors name `path`.
    """
    if size_bytes == 0:
        return Frames(np.empty(0, np.int64), np.empty(0, np.int64))
    head = _read(fd, HEAD_BYTES, 0)
    length = _checked_length(head, 0, 0, size_bytes, path)
    stride = length + FRAMING_BYTES
    num_same = 1 if size_bytes % stride else _count_same_heads(fd, head, size_bytes // stride, stride)
    rest = np.fromiter(_walk(fd, num_same, num_same * stride, size_bytes, path), np.int64)
    lengths = np.concatenate((np.full(num_same, length, np.int64), rest))
    ends = np.cumsum(lengths + FRAMING_BYTES)
    return Frames(ends - lengths - FRAMING_BYTES, lengths)


def _count_same_heads(fd: int, head: bytes, num_records: int, stride: int) -> int:
    """How many records, from the first on, have this head at constant stride."""
    if stride >= _SPARSE_BYTES:
        return next((i for i in range(num_records) if pread(fd, HEAD_BYTES, i * stride) != head), num_records)
    step = _BLOCK_BYTES // stride
    for i in range(0, num_records, step):
        wanted = min(step, num_records - i)
        block = _read(fd, wanted * stride, i * stride)
        whole = len(block) // stride
        heads = np.frombuffer(block, np.uint8, whole * stride).reshape(whole, stride)[:, :HEAD_BYTES]
        same = np.append((heads == np.frombuffer(head, np.uint8)).all(axis=1), False)
        if int(same.argmin()) < wanted:
            return i + int(same.argmin())
    return num_records


def _walk(fd: int, record: int, offset: int, size_bytes: int, path: str | ShardPath) -> Iterator[int]:
    while offset < size_bytes:
        length = _checked_length(_read(fd, HEAD_BYTES, offset), record, offset, size_bytes, path)
        yield length
        offset, record = offset + length + FRAMING_BYTES, record + 1


def _checked_length(head: bytes, record: int, offset: int, size_bytes: int, path: str | ShardPath) -> int:
    """The length in a record's head once its crc and the file's size agree with it."""
    if len(head) < HEAD_BYTES or masked_crc(head[:8]) != int.from_bytes(head[8:], "little"):
        rule = f"length crc is wrong at byte {offset + 8} (record {record})"
        if len(head) < HEAD_BYTES:
            rule = f"shard is truncated: {len(head)} bytes are left at byte {offset} for the head of record {record}"
        raise TFRecordError(f"{path}: {rule}; {AGAIN if record else _looks_like(head)}")
    length = int.from_bytes(head[:8], "little")
    if length > size_bytes - offset - FRAMING_BYTES:
        rule = f"record {record} at byte {offset} has {length} payload bytes and runs past the end, byte {size_bytes}"
        raise TFRecordError(f"{path}: shard is truncated: {rule}; {AGAIN}")
    return length


def _looks_like(head: bytes) -> str:
    if head[:2] in _COMPRESSED:
        return f"this is {_COMPRESSED[head[:2]]} data; decompress it, only plain TFRecord shards can be read in place"
    if head.translate(None, b"\t\n\r").decode("latin-1").isprintable() and head.isascii():
        return f"this is no TFRecord file, it starts as text does ({head!r}); take it out of the data folder"
    return f"this is no TFRecord file or a damaged one; take it out of the data folder, or {AGAIN}"


def verify_payload_crc(
    fd: int, offsets: NDArray[np.int64], lengths: NDArray[np.int64], *, path: str | ShardPath
) -> None:
    """Read the records that `walk_frames` found and check each payload's crc; raises at the first that is wrong."""
    for record, (offset, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
        start, stop = offset + HEAD_BYTES, offset + HEAD_BYTES + length
        crc, stored = 0, b""
        for at in range(start, stop + FOOT_BYTES, _BLOCK_BYTES):
            piece = memoryview(_read(fd, min(_BLOCK_BYTES, stop + FOOT_BYTES - at), at))
            in_payload = max(0, stop - at)
            crc = crc32c(piece[:in_payload], crc)
            stored += piece[in_payload:]
        if stored != masked_crc(b"", crc).to_bytes(4, "little"):
            rule = "payload crc is wrong" if len(stored) == FOOT_BYTES else "the file was cut while it was read"
            raise TFRecordError(f"{path}: {rule} (record {record}, {length} bytes at byte {start}); {AGAIN}")


def _read(fd: int, num_bytes: int, offset: int) -> bytes:
    """`num_bytes` from `offset`; fewer only at the end of the file."""
    data = pread(fd, num_bytes, offset)
    while len(data) < num_bytes and (more := pread(fd, num_bytes - len(data), offset + len(data))):
        data += more
    return data

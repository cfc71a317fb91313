"""The TFRecord byte format: framing, the tf.Example inside, and a walk over both that trusts no unchecked length.

A file is a run of framed records and nothing else; all numbers are little-endian:

    offset  0        8            12                        12 + length
            | length | masked crc | payload (length bytes)  | masked crc |  next record ...
            | u64    | u32        |                         | u32        |
                       of length                              of payload

    masked crc = rotate_right(crc32c, 15) + 0xa282ead8  (mod 2**32)

A payload is the protobuf message tf.Example; `1:` is a field number, `{}` a length-delimited message:

    Example { 1: Features { 1: entry { 1: name, 2: Feature { 1: BytesList { 1: value ... }      kind "bytes"
                                                           | 2: FloatList { 1: value ... }      kind "float"
                                                           | 3: Int64List { 1: value ... } }}   kind "int64"
                            1: entry ... }}

Sources: tensorflow/core/lib/io/record_writer.h, core/example/example.proto, protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from ..engines.read_errors import pread
from ..remote import ShardPath

HEAD_BYTES = 12
FOOT_BYTES = 4
FRAMING_BYTES = HEAD_BYTES + FOOT_BYTES
PADDED_VARINT_BYTES = 5

_BLOCK_BYTES = 1 << 20
_SPARSE_BYTES = 16 << 10  # from this record size on, reading the heads alone is cheaper than reading everything
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_MASK64 = (1 << 64) - 1
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x28\xb5": "zstd"}
_AGAIN = "copy or create this shard again"

Kind = Literal["bytes", "float", "int64", "empty"]
_KINDS: dict[int, Kind] = {1: "bytes", 2: "float", 3: "int64"}
_MESSAGE = (_DELIMITED,)
_WIRES = {"bytes": _MESSAGE, "float": (_FIXED32, _DELIMITED), "int64": (_VARINT, _DELIMITED)}


class TFRecordError(ValueError):
    """Bytes that break the TFRecord or tf.Example format; the message says where, which rule, and the way out."""

    exit_status: ClassVar[int] = 4


class Feature(NamedTuple):
    """One feature of a tf.Example, as places in its payload.

    `spans` holds (offset, length) of each bytes value, of each packed run of numbers and each unpacked number.
    `ints` holds the decoded values of kind "int64".
    """

    kind: Kind
    spans: tuple[tuple[int, int], ...] = ()
    ints: tuple[int, ...] = ()

    @property
    def span(self) -> tuple[int, int]:
        """The one (offset, length); TFRecordError where there is not exactly one."""
        if len(self.spans) != 1:
            raise TFRecordError(f"a feature of kind {self.kind} holds {len(self.spans)} values, not one")
        return self.spans[0]


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


def encode_example(features: Mapping[str, bytes | int], *, padded_varints: bool = True) -> bytes:
    """A tf.Example with one value per feature, in the mapping's order.

    With `padded_varints` every int takes five bytes (legal, though not the shortest spelling), so that the length
    never depends on the value; ints must then be in 0 .. 2**35 - 1.
    """
    entries = []
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = _delimited(1, _delimited(1, value))
        elif padded_varints and not 0 <= value < 1 << 7 * PADDED_VARINT_BYTES:
            raise TFRecordError(f"{name}: a padded varint holds 0 .. 2**35 - 1, not {value}; pass padded_varints=False")
        else:
            varint = _encode_varint(value & _MASK64, PADDED_VARINT_BYTES if padded_varints else 1)
            feature = _delimited(3, _delimited(1, varint))
        entries.append(_delimited(1, _delimited(1, name.encode()) + _delimited(2, feature)))
    return _delimited(1, b"".join(entries))


def encode_around(name: str, num_bytes: int, others: Mapping[str, bytes | int]) -> tuple[bytes, bytes]:
    """What stands before and behind the `num_bytes` of a bytes feature in a tf.Example, whose `others` come behind it.

    For values too large to be copied; ints take as few bytes as they can.
    """
    behind = encode_example(others, padded_varints=False)
    behind = behind[len(behind) - _varint(memoryview(behind), 1, len(behind))[0] :]  # without Example's tag and length
    before, length = b"", num_bytes
    for field, prefix in ((1, b""), (1, b""), (2, _delimited(1, name.encode())), (1, b"")):
        before = prefix + _head_of(field, length) + before
        length = len(before) + num_bytes
    return _head_of(1, length + len(behind)) + before, behind


def _head_of(number: int, length: int) -> bytes:
    return _encode_varint(number << 3 | _DELIMITED) + _encode_varint(length)


def _delimited(number: int, content: bytes) -> bytes:
    return _encode_varint(number << 3 | _DELIMITED) + _encode_varint(len(content)) + content


def _encode_varint(value: int, min_bytes: int = 1) -> bytes:
    encoded: list[int] = []
    while value > 0x7F or len(encoded) < min_bytes - 1:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def walk_example(payload: memoryview, *, where: str = "record") -> dict[str, Feature]:
    """Every feature of a tf.Example by name, without copying a value.

    Reads what protobuf reads: fields in any order, packed and unpacked lists, unknown fields skipped (groups, which
    protobuf gave up long ago, are refused), of two entries with one name the last.  Raises TFRecordError, starting
    with `where`, at the first byte that breaks a rule.
    """
    try:
        lists = _spans(payload, 1, _MESSAGE, 0, len(payload))
        return dict(_entry(payload, *entry) for span in lists for entry in _spans(payload, 1, _MESSAGE, *span))
    except TFRecordError as error:
        raise TFRecordError(f"{where}: payload is no tf.Example: {error}; {_AGAIN}") from None


def _entry(data: memoryview, start: int, stop: int) -> tuple[str, Feature]:
    name = ""
    for at, end in _spans(data, 1, _MESSAGE, start, stop):
        try:
            name = str(data[at:end], "utf-8")
        except UnicodeDecodeError:
            raise TFRecordError(f"the name at byte {at} is not UTF-8") from None
    return name, _feature(data, _spans(data, 2, _MESSAGE, start, stop))


def _feature(data: memoryview, parts: Iterator[tuple[int, int]]) -> Feature:
    """Parts of one message are merged, as protobuf does; a list of another kind replaces what came before."""
    kind: Kind = "empty"
    spans: list[tuple[int, int]] = []
    ints: list[int] = []
    for part in parts:
        for number, wire, start, stop in _fields(data, *part):
            if number not in _KINDS or wire != _DELIMITED:
                continue
            if _KINDS[number] != kind:
                kind, spans, ints = _KINDS[number], [], []
            for at, end in _spans(data, 1, _WIRES[kind], start, stop):
                spans.append((at, end - at))
                if kind == "int64":
                    ints.extend(_ints(data, at, end))
                if kind == "float" and (end - at) % 4:
                    raise TFRecordError(f"packed floats at byte {at} take {end - at} bytes, no multiple of 4")
    return Feature(kind, tuple(spans), tuple(ints))


def _ints(data: memoryview, at: int, end: int) -> Iterator[int]:
    while at < end:
        value, at = _varint(data, at, end)
        yield value - (1 << 64) if value >> 63 else value


def _spans(data: memoryview, number: int, wires: Container[int], start: int, stop: int) -> Iterator[tuple[int, int]]:
    return ((at, end) for n, wire, at, end in _fields(data, start, stop) if n == number and wire in wires)


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and stop of each field of the message data[at:end]."""
    while at < end:
        tag_at = at
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise TFRecordError(f"field number {number} at byte {tag_at} is outside 1 .. 2**29 - 1")
        start, at = _span(data, wire, at, end)
        yield number, wire, start, at


def _span(data: memoryview, wire: int, at: int, end: int) -> tuple[int, int]:
    """Start and stop of the value at `at`, checked to lie inside data[:end]."""
    if wire == _VARINT:
        return at, _varint(data, at, end)[1]
    if wire not in (_DELIMITED, _FIXED32, _FIXED64):
        raise TFRecordError(f"wire type {wire} before byte {at} is none that a tf.Example has")
    length, start = _varint(data, at, end) if wire == _DELIMITED else (4 if wire == _FIXED32 else 8, at)
    if length > end - start:
        raise TFRecordError(f"a value of {length} bytes at byte {start} runs past byte {end}, the end of its message")
    return start, start + length


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for position in range(at, min(end, at + 10)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, position + 1
        shift += 7
    raise TFRecordError(f"varint at byte {at} is longer than 10 bytes or runs past byte {end}, the end of its message")


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
        raise TFRecordError(f"{path}: {rule}; {_AGAIN if record else _looks_like(head)}")
    length = int.from_bytes(head[:8], "little")
    if length > size_bytes - offset - FRAMING_BYTES:
        rule = f"record {record} at byte {offset} has {length} payload bytes and runs past the end, byte {size_bytes}"
        raise TFRecordError(f"{path}: shard is truncated: {rule}; {_AGAIN}")
    return length


def _looks_like(head: bytes) -> str:
    if head[:2] in _COMPRESSED:
        return f"this is {_COMPRESSED[head[:2]]} data; decompress it, only plain TFRecord shards can be read in place"
    if head.translate(None, b"\t\n\r").decode("latin-1").isprintable() and head.isascii():
        return f"this is no TFRecord file, it starts as text does ({head!r}); take it out of the data folder"
    return f"this is no TFRecord file or a damaged one; take it out of the data folder, or {_AGAIN}"


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
            raise TFRecordError(f"{path}: {rule} (record {record}, {length} bytes at byte {start}); {_AGAIN}")


def _read(fd: int, num_bytes: int, offset: int) -> bytes:
    """`num_bytes` from `offset`; fewer only at the end of the file."""
    data = pread(fd, num_bytes, offset)
    while len(data) < num_bytes and (more := pread(fd, num_bytes - len(data), offset + len(data))):
        data += more
    return data

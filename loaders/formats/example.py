"""The protobuf message tf.Example that a TFRecord's payload is: written, and walked without copying a value.

`1:` is a field number, `{}` a length-delimited message:

    Example { 1: Features { 1: entry { 1: name, 2: Feature { 1: BytesList { 1: value ... }      kind "bytes"
                                                           | 2: FloatList { 1: value ... }      kind "float"
                                                           | 3: Int64List { 1: value ... } }}   kind "int64"
                            1: entry ... }}

Sources: tensorflow/core/example/example.proto, protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Literal, NamedTuple

from .tfrecord import AGAIN, TFRecordError

PADDED_VARINT_BYTES = 5

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_MASK64 = (1 << 64) - 1

Kind = Literal["bytes", "float", "int64", "empty"]
_KINDS: dict[int, Kind] = {1: "bytes", 2: "float", 3: "int64"}
_MESSAGE = (_DELIMITED,)
_WIRES = {"bytes": _MESSAGE, "float": (_FIXED32, _DELIMITED), "int64": (_VARINT, _DELIMITED)}


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
        raise TFRecordError(f"{where}: payload is no tf.Example: {error}; {AGAIN}") from None


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

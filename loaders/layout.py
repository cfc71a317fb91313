"""The proof of a layout: that every record of a shard is spelled as its first one, so that pixels lie at one stride.

    record 0 is parsed; each bit of it around the pixels is then fixed, or free to differ from record to record:

        |head|tags, names, lengths|PIXELS|tags...|label varint|text|crc|
         fixed      fixed           free   fixed   low 7 bits  free free

Records whose fixed bits all equal record 0's parse exactly as it does.  Equal lengths alone prove nothing: the order
of a tf.Example's features is not fixed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .tfrecord import FOOT_BYTES, FRAMING_BYTES, HEAD_BYTES, Feature, Frames, walk_example

IMAGE, LABEL, FORMAT = "image/encoded", "image/class/label", "image/format"
DIMENSIONS = ("image/height", "image/width", "image/channels")
_FIXED, _FREE, _VARINT_FREE = 0xFF, 0x00, 0x80


class LayoutError(ValueError):
    """Records that cannot be read as a strided view, and why."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """What was proven of one shard: stride and payload offset in bytes, shape (H, W, C), labels int64 (n,)."""

    stride_bytes: int
    payload_offset: int
    shape: tuple[int, int, int]
    labels: npt.NDArray[np.int64]


def prove_layout(fd: int, frames: Frames, *, path: Path) -> ShardLayout:
    """Parse record 0 and hold every other record's bytes around the pixels against it."""
    stride = _stride(frames)
    if stride is None:
        raise LayoutError(
            f"{path}: {'its records differ in length' if len(frames.lengths) else 'no record in it'}; only raw images "
            f"of one size at a constant stride are read in place: write the shards with `iobench generate`"
        )
    record = memoryview(bytearray(stride))
    _read_exactly(fd, record, 0, path)
    features = walk_example(record[HEAD_BYTES : stride - FOOT_BYTES], where=f"{path}: record 0")
    shape = _image_shape(features, record, path)
    label_at, label_bytes = _label_span(features, path)
    image = features[IMAGE].spans[0]
    start, stop = HEAD_BYTES + image[0], HEAD_BYTES + image[0] + image[1]
    mask = _fixed_bits(features, stride)
    around = _read_around(fd, len(frames.offsets), stride, start, stop, path=path)
    kept = np.concatenate((mask[:start], mask[stop:]))
    wrong = ((around ^ around[0]) & kept).any(axis=1)
    if wrong.any():
        number = int(wrong.argmax())
        raise LayoutError(
            f"{path}: record {number} (byte {number * stride}) is not spelled as record 0 is, so pixels do not lie at "
            f"a constant stride; write the shards with `iobench generate`"
        )
    column = label_at if label_at < start else label_at - (stop - start)
    return ShardLayout(stride, start, shape, _decode_varints(around[:, column : column + label_bytes]))


def _stride(frames: Frames) -> int | None:
    """Bytes from one record to the next where that is the same for all, framing included."""
    lengths = frames.lengths
    return int(lengths[0]) + FRAMING_BYTES if len(lengths) and (lengths == lengths[0]).all() else None


def _image_shape(features: Mapping[str, Feature], record: memoryview, path: Path) -> tuple[int, int, int]:
    for name in (IMAGE, *DIMENSIONS):
        if name not in features:
            there = ", ".join(sorted(features))
            raise LayoutError(f"{path}: record 0 has no feature {name!r}; it has {there or 'none'}")
    if features[IMAGE].kind != "bytes" or len(features[IMAGE].spans) != 1:
        raise LayoutError(f"{path}: {IMAGE!r} of record 0 is {features[IMAGE].kind}, not one bytes value")
    sizes = [features[name].ints for name in DIMENSIONS]
    if any(len(size) != 1 or size[0] < 1 for size in sizes):
        raise LayoutError(f"{path}: {', '.join(DIMENSIONS)} of record 0 are {sizes}, not one positive number each")
    height, width, channels = (size[0] for size in sizes)
    offset, length = features[IMAGE].spans[0]
    if height * width * channels != length:
        kind = "JPEG" if bytes(record[HEAD_BYTES + offset :][:2]) == b"\xff\xd8" else "not raw pixels"
        raise LayoutError(
            f"{path}: {IMAGE!r} of record 0 has {length} bytes, not {height} x {width} x {channels} ({kind}); only raw "
            f"images are read so far"
        )
    return height, width, channels


def _label_span(features: Mapping[str, Feature], path: Path) -> tuple[int, int]:
    label = features.get(LABEL)
    if label is None or label.kind != "int64" or len(label.spans) != 1 or len(label.ints) != 1:
        there = ", ".join(sorted(features))
        raise LayoutError(f"{path}: record 0 has no feature {LABEL!r} with one int64; it has {there}")
    return HEAD_BYTES + label.spans[0][0], label.spans[0][1]


def _fixed_bits(features: Mapping[str, Feature], stride: int) -> npt.NDArray[np.uint8]:
    """For each byte of a record which bits must equal record 0's."""
    mask = np.full(stride, _FIXED, dtype=np.uint8)
    for name, feature in features.items():
        freedom = _FREE if feature.kind in ("bytes", "float") else _VARINT_FREE if name == LABEL else _FIXED
        for offset, length in feature.spans:
            if name != FORMAT:
                mask[HEAD_BYTES + offset : HEAD_BYTES + offset + length] = freedom
    mask[stride - FOOT_BYTES :] = _FREE
    return mask


def _read_around(fd: int, num_records: int, stride: int, start: int, stop: int, *, path: Path) -> npt.NDArray[np.uint8]:
    """The bytes before and after the pixels of every record, (n, start + stride - stop); one read per boundary."""
    rows = np.empty((num_records, start + stride - stop), dtype=np.uint8)
    flat = memoryview(rows.data).cast("B")
    tail = stride - stop
    width = rows.shape[1]
    _read_exactly(fd, flat[:start], 0, path)
    for record in range(num_records):
        # the end of this record and the start of the next lie side by side, in the file and in `rows`
        at = record * width + start
        length = tail + (start if record + 1 < num_records else 0)
        _read_exactly(fd, flat[at : at + length], record * stride + stop, path)
    return rows


def _read_exactly(fd: int, target: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(fd, [target[done:]], offset + done)
        if count == 0:
            raise LayoutError(f"{path}: cut at byte {offset + done} while it was read; copy or create this shard again")
        done += count


def _decode_varints(columns: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    shifts = np.arange(columns.shape[1], dtype=np.uint64) * np.uint64(7)
    parts = (columns & 0x7F).astype(np.uint64) << shifts
    values: npt.NDArray[np.int64] = np.bitwise_or.reduce(parts, axis=1).view(np.int64)
    return values

"""What a sample looks like in a shard of each format: all the bytes of its record.

tfrecord        | head | tf.Example: ... label ... filename, padded ... image/encoded = PIXELS | crc |
tensors         | PIXELS | label, int64 | zeros up to a multiple of 4096 |
tfrecord-jpeg   | head | tf.Example as build_imagenet_data writes it: sides, label, synset ... IMAGE | crc |
webdataset      | ustar header | IMAGE ... zeros | ustar header | label as text ... zeros |     two zero blocks end it
"""

from __future__ import annotations

import math
import tarfile
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from ...loaders.formats.example import encode_example, walk_example
from ...loaders.formats.tar import BLOCK_BYTES
from ...loaders.formats.tensors import record_bytes_of
from ...loaders.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, frame, masked_crc
from ..generate.forms import padded_record
from ..generate.jpeg_shards import encoded_record
from .samples import Sample

Shape = tuple[int, int, int]

JPEG_FRAME_BYTES = 320  # of a record, beside its image, about
SUFFIXES = {"tfrecord": ".tfrecord", "tensors": ".tensors", "tfrecord-jpeg": ".tfrecord", "webdataset": ".tar"}
EXTENSIONS = {"jpeg": "jpg", "png": "png"}

_LABEL_BYTES = 10  # the longest varint: every int64 fits, and the length of a record does not depend on it
_SEVEN = np.arange(_LABEL_BYTES, dtype=np.uint64) * np.uint64(7)


class Form(Protocol):
    """One format's records; used by many threads at once."""

    @property
    def end(self) -> bytes:
        """What stands behind the last record of a shard."""

    def record(self, sample: Sample) -> bytes | bytearray:
        """All of a sample's record."""


class RawTFRecord(NamedTuple):
    """A framed record with zeros for pixels, and where in it what changes from image to image stands."""

    template: bytes
    pixels_at: int
    label_at: int
    filename_at: int
    end: bytes = b""

    @classmethod
    def of(cls, shape: Shape) -> RawTFRecord:
        """The record of images of this shape (H, W, C), uint8, at the strides of generated ones."""
        template = padded_record(partial(_example, shape))
        features = walk_example(memoryview(template)[HEAD_BYTES:-FOOT_BYTES])
        names = ("image/encoded", "image/class/label", "image/filename")
        pixels_at, label_at, filename_at = (HEAD_BYTES + features[name].span[0] for name in names)
        return cls(template, pixels_at, label_at, filename_at)

    def record(self, sample: Sample) -> bytearray:
        """See Form."""
        target, pixels, name = bytearray(self.template), sample.stored, _raw_name(sample.number)
        target[self.pixels_at : self.pixels_at + len(pixels)] = pixels
        target[self.label_at : self.label_at + _LABEL_BYTES] = padded_varint(sample.label)
        target[self.filename_at : self.filename_at + len(name)] = name
        with memoryview(target) as whole:
            crc = masked_crc(whole[HEAD_BYTES:-FOOT_BYTES])
        target[-FOOT_BYTES:] = crc.to_bytes(FOOT_BYTES, "little")
        return target


class TensorRecord(NamedTuple):
    """Pixels, the label right behind them, zeros up to the next record."""

    end: bytes = b""

    def record(self, sample: Sample) -> bytes:
        """See Form."""
        filled = b"".join((sample.stored, sample.label.to_bytes(8, "little", signed=True)))
        return filled.ljust(record_bytes_of(len(filled) - 8), b"\0")


class EncodedTFRecord(NamedTuple):
    """The fields of build_imagenet_data; `names` of classes stand as synset and text, where they are known."""

    names: Mapping[int, str]
    end: bytes = b""

    def record(self, sample: Sample) -> bytes:
        """See Form."""
        name = self.names.get(sample.label, str(sample.label))
        return encoded_record(
            bytes(sample.stored),
            (sample.height, sample.width),
            sample.label,
            synset=name,
            text=name,
            encoding=sample.encoding.upper(),
            filename=f"image-{sample.number:012d}.{EXTENSIONS[sample.encoding]}",
        )


class TarRecord(NamedTuple):
    """Image and label as members of one key; time, owner and so on are 0, so that the same data give the same bytes."""

    end: bytes = bytes(2 * BLOCK_BYTES)

    def record(self, sample: Sample) -> bytes:
        """See Form."""
        key = f"{sample.number:012d}"
        image = _member(f"{key}.{EXTENSIONS[sample.encoding]}", sample.stored)
        return image + _member(f"{key}.cls", str(sample.label).encode())


def form_of(format: str, shape: Shape | None, names: Mapping[int, str]) -> Form:  # noqa: A002  # the field's word
    """The records of a format; raw ones are of images of `shape`."""
    if format == "tensors":
        return TensorRecord()
    if format == "tfrecord":
        assert shape is not None  # of raw images it is known
        return RawTFRecord.of(shape)
    return EncodedTFRecord(names) if format == "tfrecord-jpeg" else TarRecord()


def raw_record_bytes(format: str, shape: Shape, dtype: str) -> int:  # noqa: A002
    """Bytes of a record of raw pixels."""
    if format == "tfrecord":
        return len(RawTFRecord.of(shape).template)
    return record_bytes_of(math.prod(shape) * np.dtype(dtype).itemsize)


def encoded_record_bytes(format: str, image_bytes: int) -> int:  # noqa: A002
    """Bytes of the record of an encoded image of so many bytes, about; of a file alone those of the blocks it takes."""
    if format == "tfrecord-jpeg":
        return image_bytes + JPEG_FRAME_BYTES
    if format == "folder":
        return -(-image_bytes // 4096) * 4096
    return 3 * BLOCK_BYTES + -(-image_bytes // BLOCK_BYTES) * BLOCK_BYTES


def padded_varint(value: int) -> bytes:
    """An int64 as a varint of ten bytes, of which the longest ones need all."""
    groups = (np.uint64(value & (1 << 64) - 1) >> _SEVEN).astype(np.uint8) & 0x7F
    groups[:-1] |= 0x80
    return groups.tobytes()


def _example(shape: Shape, padding: int) -> bytes:
    height, width, channels = shape
    features: dict[str, bytes | int] = {
        "image/height": height,
        "image/width": width,
        "image/channels": channels,
        "image/format": b"raw",
        "image/class/label": -1,
        "image/filename": _raw_name(0) + b" " * padding,
        "image/encoded": bytes(height * width * channels),
    }
    return frame(encode_example(features, padded_varints=False))


def _raw_name(number: int) -> bytes:
    return b"image-%012d.raw" % number


def _member(name: str, content: bytes | memoryview) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    return b"".join((header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % BLOCK_BYTES)))

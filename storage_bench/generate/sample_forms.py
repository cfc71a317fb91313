"""What an opaque sample looks like on disk: the bytes before it, and those behind it, which hold its checksum.

    tfrecord   | length, crc | tf.Example: image = SAMPLE, size = its bytes | masked crc32c |       as DLIO writes them
    npz        | local header | npy header | SAMPLE | crc32, sizes | y.npy, a label | directory |  as np.savez does, but
                                                                        the crc32 comes behind, as in any zip stream

Sources: dlio_benchmark/data_generator/tf_generator.py and npz_generator.py of
https://github.com/argonne-lcf/dlio_benchmark; PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Protocol

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from ...loaders.formats.example import encode_around
from ...loaders.formats.tfrecord import FOOT_BYTES, masked_crc
from .samples import sides_of

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LATER = struct.Struct("<4sI2Q")  # signature, crc32, packed and plain size: behind a member whose header has none
_VERSION_ZIP64, _SIZES_LATER, _DAY_ONE, _UNIX, _ELSEWHERE = 45, 0x0008, 0x21, 3, 0xFFFFFFFF


class SampleForm(Protocol):
    """One sample's surroundings: `head`, then the sample in pieces through `update`, then `tail`."""

    @property
    def head(self) -> bytes:
        """What stands before the sample."""

    @property
    def tail_bytes(self) -> int:
        """How long `tail` is."""

    def update(self, piece: NDArray[np.uint8]) -> None:
        """Take the next bytes of the sample into the checksum."""

    def tail(self) -> bytes:
        """What stands behind the sample, once all of it has been seen."""


class TFRecordSample:
    """A framed tf.Example of `image` and `size`."""

    def __init__(self, num_bytes: int) -> None:
        before, self._behind = encode_around("image", num_bytes, {"size": num_bytes})
        length = (len(before) + num_bytes + len(self._behind)).to_bytes(8, "little")
        self.head = length + masked_crc(length).to_bytes(4, "little") + before
        self.tail_bytes = len(self._behind) + FOOT_BYTES
        self._crc = crc32c(before)

    def update(self, piece: NDArray[np.uint8]) -> None:
        """See SampleForm."""
        self._crc = crc32c(piece.data, self._crc)

    def tail(self) -> bytes:
        """See SampleForm."""
        return self._behind + masked_crc(self._behind, self._crc).to_bytes(FOOT_BYTES, "little")


class NpzSampleFile:
    """A whole npz file: `x`, uint8 (height, width, 1), and `y`, one label in an array, int64 (1,)."""

    def __init__(self, num_bytes: int, label: int) -> None:
        header = _npy_header((*sides_of(num_bytes), 1), "|u1")
        self.head = _local_header(b"x.npy", _SIZES_LATER, 0, 0) + header
        self._x_bytes = len(header) + num_bytes
        self._y = _npy_header((1,), "<i8") + label.to_bytes(8, "little")
        self._crc = zlib.crc32(header)
        self.tail_bytes = len(self.tail())

    def update(self, piece: NDArray[np.uint8]) -> None:
        """See SampleForm."""
        self._crc = zlib.crc32(piece.data, self._crc)

    def tail(self) -> bytes:
        """See SampleForm."""
        y_crc, y_bytes = zlib.crc32(self._y), len(self._y)
        later = _LATER.pack(b"PK\x07\x08", self._crc, self._x_bytes, self._x_bytes)
        x_end = len(_local_header(b"x.npy", _SIZES_LATER, 0, 0)) + self._x_bytes + len(later)
        second = _local_header(b"y.npy", 0, y_crc, y_bytes) + self._y
        directory = _central_header(b"x.npy", _SIZES_LATER, self._crc, self._x_bytes, 0)
        directory += _central_header(b"y.npy", 0, y_crc, y_bytes, x_end)
        end = _END.pack(b"PK\x05\x06", 0, 0, 2, 2, len(directory), x_end + len(second), 0)
        return later + second + directory + end


def _npy_header(shape: tuple[int, ...], descr: str) -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array_header_1_0(target, {"descr": descr, "fortran_order": False, "shape": shape})
    return target.getvalue()


def _local_header(name: bytes, flags: int, crc: int, num_bytes: int) -> bytes:
    """With its sizes in a zip64 field, as np.savez has them, so that the array starts where it does there."""
    extra = struct.pack("<2H2Q", 1, 16, num_bytes, num_bytes)
    fixed = (b"PK\x03\x04", _VERSION_ZIP64, flags, 0, 0, _DAY_ONE, crc, _ELSEWHERE, _ELSEWHERE, len(name), len(extra))
    return _LOCAL.pack(*fixed) + name + extra


def _central_header(name: bytes, flags: int, crc: int, num_bytes: int, offset: int) -> bytes:
    made_by = _UNIX << 8 | _VERSION_ZIP64
    fixed = (b"PK\x01\x02", made_by, _VERSION_ZIP64, flags, 0, 0, _DAY_ONE, crc, num_bytes, num_bytes, len(name))
    return _CENTRAL.pack(*fixed, 0, 0, 0, 0, 0o600 << 16, offset) + name

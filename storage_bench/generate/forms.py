"""What a generated record looks like on disk: every byte but the pixels, and where pixels, label and name go.

    tfrecord   | head | tf.Example: ... class/label ... filename, padded ... image/encoded | crc |
    tensors    | pixels | label, int64 | zeros up to a multiple of 4096 |

A TFRecord's stride is a multiple of 4096 where padding the name costs at most 5 % of the record, else of 512 at the
same limit, else it is not padded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...loaders.formats.example import encode_example, walk_example
from ...loaders.formats.tensors import LABEL_BYTES, record_bytes_of
from ...loaders.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, frame, masked_crc

FormatName = Literal["tfrecord", "tensors"]
ALIGNMENT_BYTES = 4096

Shape = tuple[int, int, int]


class TFRecordForm(NamedTuple):
    """A framed record with zeros for pixels, and where in it what changes from image to image stands."""

    record: bytes
    pixels_at: int
    label_at: int
    filename_at: int

    def fill(self, target: memoryview, image: NDArray[np.uint8], label: int, *, seed: int, index: int) -> None:
        """Make a copy of `record` that of image `index`."""
        name = _filename(seed, index)
        target[self.pixels_at : self.pixels_at + image.size] = image.reshape(-1).data
        target[self.label_at] = label | 0x80  # the low seven bits of a padded varint; four more bytes follow
        target[self.filename_at : self.filename_at + len(name)] = name
        target[-FOOT_BYTES:] = masked_crc(target[HEAD_BYTES:-FOOT_BYTES]).to_bytes(FOOT_BYTES, "little")


class TensorForm(NamedTuple):
    """A record of zeros: pixels come first, the label right behind them."""

    record: bytes

    def fill(self, target: memoryview, image: NDArray[np.uint8], label: int, *, seed: int, index: int) -> None:  # noqa: ARG002  # a tensor record does not name its image
        """Make a copy of `record` that of image `index`."""
        target[: image.size] = image.reshape(-1).data
        target[image.size : image.size + LABEL_BYTES] = label.to_bytes(LABEL_BYTES, "little", signed=True)


Form = TFRecordForm | TensorForm


@lru_cache(maxsize=4)
def record_form(format: FormatName, shape: Shape) -> Form:  # noqa: A002  # the field's word
    """The form of records of this format and shape (H, W, C), uint8."""
    if format == "tensors":
        return TensorForm(bytes(record_bytes_of(math.prod(shape))))
    return _place(padded_record(partial(_example, shape)))


def padded_record(example: Callable[[int], bytes]) -> bytes:
    """The framed record that `example` makes for a number of bytes of padding, at the stride that a TFRecord gets."""
    bare = len(example(0))
    for alignment in (ALIGNMENT_BYTES, 512):
        target = -(-bare // alignment) * alignment
        # The length fields before the name may grow with it: a few paddings below the difference are tried.
        for padding in range(target - bare, max(target - bare - 8, -1), -1):
            record = example(padding)
            if len(record) == target and padding * 20 <= target:
                return record
    return example(0)


def _example(shape: Shape, padding: int) -> bytes:
    height, width, channels = shape
    features: dict[str, bytes | int] = {
        "image/height": height,
        "image/width": width,
        "image/channels": channels,
        "image/format": b"raw",
        "image/class/label": 0,
        "image/filename": _filename(0, 0) + b" " * padding,
        "image/encoded": bytes(height * width * channels),
    }
    return frame(encode_example(features))


def _filename(seed: int, index: int) -> bytes:
    return b"seed-%019d/image-%012d.raw" % (seed, index)


def _place(record: bytes) -> TFRecordForm:
    features = walk_example(memoryview(record)[HEAD_BYTES:-FOOT_BYTES])
    names = ("image/encoded", "image/class/label", "image/filename")
    pixels_at, label_at, filename_at = (HEAD_BYTES + features[name].span[0] for name in names)
    return TFRecordForm(record, pixels_at, label_at, filename_at)

"""What one record says: its image, shape and label, by the names of the features that hold them.

    tf.Example   image/encoded: bytes | image/height: 300 | image/width: 300 | image/channels: 3 | image/class/label: 7
    Wanted       fields (what these are called), dtype, and a shape where records do not say it
      -> Parsed  where in the payload the pixels start, (H, W, C), label

Pixels are the raw bytes of an (H, W, C) array: one bytes value or, for float32, also one packed list of floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from .example import Feature, walk_example

DTYPES = ("uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64")
NO_LABEL = -1

_MAGICS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"RIFF": "WebP", b"II*\0": "TIFF", b"BM": "BMP"}
_CODECS = {"JPEG": "jpeg", "PNG": "png"}

Shape = tuple[int, int, int]


class LayoutError(ValueError):
    """Records whose pixels cannot be read in place, and why."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class Fields:
    """What the features of a tf.Example are called; the defaults are those of TensorFlow's image scripts.

    `label=None`: there are no labels, and each is -1.  Where a dimension is None a shape must be given.  `opaque`: the
    image's bytes are taken as they are, encoded or not and of any length, as a tensor of bytes.
    """

    image: str = "image/encoded"
    label: str | None = "image/class/label"
    height: str | None = "image/height"
    width: str | None = "image/width"
    channels: str | None = "image/channels"
    opaque: bool = False


DLIO_FIELDS = Fields(image="image", label=None, height=None, width=None, channels=None, opaque=True)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of every record; a `shape` (H, W, C) wins over what records say of theirs."""

    fields: Fields = Fields()
    shape: Shape | None = None
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        sizes: tuple[int, ...] = self.shape or (1, 1, 1)
        if len(sizes) != 3 or min(sizes) < 1:
            raise ValueError(f"shape {self.shape} is not (height, width, channels), three positive numbers")
        if self.fields.opaque and (self.shape is not None or self.dtype != "uint8"):
            raise ValueError(
                "opaque samples are bytes of any length: leave shape and dtype out, or Fields(opaque=True)"
            )

    def image_bytes(self, shape: Shape) -> int:
        """Bytes of one image of this shape."""
        height, width, channels = shape
        return height * width * channels * np.dtype(self.dtype).itemsize


class Parsed(NamedTuple):
    """One record as it was parsed; places count from the start of its payload."""

    features: Mapping[str, Feature]
    image_at: int
    image_bytes: int
    shape: Shape
    label: int


class First(NamedTuple):
    """The shape that every image must have, and which record said so."""

    shape: Shape
    where: str


def parse_record(payload: memoryview, wanted: Wanted, *, where: str, first: First | None = None) -> Parsed:
    """Find image, shape and label of one tf.Example; no pixel is read unless there is something to complain of.

    Raises LayoutError, starting with `where`, for a record that lacks what is wanted, holds an encoded image, or has
    another shape than `first`; TFRecordError for one that is no tf.Example.
    """
    features = walk_example(payload, where=where)
    image = features.get(wanted.fields.image)
    if image is None:
        raise _missing("image", wanted.fields.image, features, where)
    kinds = ("bytes", "float") if wanted.dtype == "float32" else ("bytes",)
    if image.kind not in kinds or len(image.spans) != 1:
        held = f"{len(image.spans)} values of kind {image.kind}"
        raise LayoutError(f"{where}: {wanted.fields.image!r} holds {held}, not one image of kind {' or '.join(kinds)}")
    at, length = image.spans[0]
    if wanted.fields.opaque:
        if not length:
            raise LayoutError(f"{where}: {wanted.fields.image!r} is empty; leave this record out")
        return Parsed(features, at, length, (1, 1, length), _label(features, wanted.fields.label, where))
    pixels = payload[at : at + length]
    shape = wanted.shape or _stated_shape(features, wanted.fields, pixels, where)
    if first is not None and (shape != first.shape or length != wanted.image_bytes(shape)):
        raise _other_size(shape, pixels, wanted, where, first)
    if length != wanted.image_bytes(shape):
        raise _not_raw(shape, pixels, wanted, where)
    return Parsed(features, at, length, shape, _label(features, wanted.fields.label, where))


def codec_of(payload: memoryview, wanted: Wanted, *, where: str) -> str | None:
    """The codec of a record's image, where it is one that is decoded and no raw pixels are asked for; else None."""
    image = walk_example(payload, where=where).get(wanted.fields.image)
    if wanted != Wanted(wanted.fields) or image is None or image.kind != "bytes" or len(image.spans) != 1:
        return None
    at, length = image.spans[0]
    return _CODECS.get(encoding_of(payload[at : at + length]) or "")


def is_dlio(features: Mapping[str, Feature]) -> bool:
    """Whether a record is as DLIO, and so MLPerf Storage, writes them: `image`, some bytes, and `size`, a number."""
    kinds = {name: feature.kind for name, feature in features.items()}
    return kinds == {"image": "bytes", "size": "int64"}


def _stated_shape(features: Mapping[str, Feature], fields: Fields, pixels: memoryview, where: str) -> Shape:
    sizes: list[int] = []
    for what, name in (("height", fields.height), ("width", fields.width), ("channels", fields.channels)):
        if name is None or name not in features:
            if kind := encoding_of(pixels):
                raise _encoded(kind, where)
            raise _missing(what, name, features, where, or_else=", or give shape=(H, W, C)")
        feature = features[name]
        if len(feature.ints) != 1 or feature.ints[0] < 1:
            held = f"{list(feature.ints)}" if feature.ints else f"a value of kind {feature.kind}"
            raise LayoutError(f"{where}: {name!r} holds {held}, not one positive number; give shape=(H, W, C)")
        sizes += feature.ints
    return sizes[0], sizes[1], sizes[2]


def _label(features: Mapping[str, Feature], name: str | None, where: str) -> int:
    if name is None:
        return NO_LABEL
    if name not in features:
        raise _missing("label", name, features, where, or_else=", or give label=None for none")
    feature = features[name]
    if feature.kind != "int64" or len(feature.ints) != 1 or len(feature.spans) != 1:
        held = f"{len(feature.ints or feature.spans)} values of kind {feature.kind}"
        raise LayoutError(
            f"{where}: {name!r} holds {held}, not one int64; name the label with fields=Fields(label=...), or give "
            f"label=None for none"
        )
    return feature.ints[0]


def _other_size(shape: Shape, pixels: memoryview, wanted: Wanted, where: str, first: First) -> LayoutError:
    fits = len(pixels) == wanted.image_bytes(shape)
    if not fits and (kind := encoding_of(pixels)):
        return _encoded(kind, where)
    mine = said(shape) if fits else f"of {len(pixels)} bytes"
    return LayoutError(
        f"{where}: its image is {mine}, that of {first.where} is {said(first.shape)} {wanted.dtype}; a batch takes "
        f"images of one size: write them at one size, or name shards of one size with a glob"
    )


def _not_raw(shape: Shape, pixels: memoryview, wanted: Wanted, where: str) -> LayoutError:
    if kind := encoding_of(pixels):
        return _encoded(kind, where)
    return LayoutError(
        f"{where}: {wanted.fields.image!r} has {len(pixels)} bytes, not the {wanted.image_bytes(shape)} of "
        f"{said(shape)} {wanted.dtype}; give the right dtype=, or the right shape=(H, W, C)"
    )


def encoding_of(pixels: memoryview | bytes) -> str | None:
    """The encoding that an image's first bytes show; None where they show none."""
    start = bytes(pixels[:4])
    return next((kind for magic, kind in _MAGICS.items() if start.startswith(magic)), None)


def _encoded(kind: str, where: str) -> LayoutError:
    return LayoutError(
        f"{where}: holds a {kind} image where raw pixels were expected; sets of JPEG or PNG images throughout are "
        f"decoded: leave shape and dtype out, or take their bytes as they are with fields=Fields(opaque=True)"
    )


def _missing(
    what: str, name: str | None, features: Mapping[str, Feature], where: str, *, or_else: str = ""
) -> LayoutError:
    there = ", ".join(map(repr, sorted(features))) or "none"
    rule = f"has no feature {name!r}" if name else f"was given no feature for its {what}"
    return LayoutError(f"{where}: {rule}; it has {there}: name the {what} with fields=Fields({what}=...){or_else}")


def said(shape: Shape) -> str:
    """The shape as messages show it."""
    return " x ".join(map(str, shape))
